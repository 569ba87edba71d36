"""ONNX graphs compute what PyTorch does, at sizes that they were not traced at."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from convmae.backbones import ConvViT, ConvViTDet, ViT
from convmae.engine.errors import UserError
from convmae.engine.export import encoders
from convmae.engine.export.graphs import PACKAGES, open_session
from convmae.engine.files import save_weights
from convmae.tools import export as tool

for package in PACKAGES:
    pytest.importorskip(package, reason=f"no {package}: install the packages of the extra `export`")

DIMS = {"embed_dims": (8, 8, 16), "depths": (1, 1, 1), "num_heads": 1}


def random_model(seed: int = 0) -> ConvViT:
    torch.manual_seed(seed)
    model = ConvViT(DIMS, num_classes=3, img_size=64).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def encoder_state(model: ConvViT) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith(("fc_norm.", "head."))}


def session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported_encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[ConvViT, Path]:
    """A model, and what the tool writes of a file that holds its encoder."""
    folder, model = tmp_path_factory.mktemp("encoder"), random_model()
    save_file(
        {name: value.contiguous() for name, value in encoder_state(model).items()}, folder / "encoder.safetensors"
    )
    assert tool.main([str(folder / "encoder.safetensors")]) == 0
    return model, folder / "encoder.onnx"


@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [(1, 64, 64), (2, 64, 80), (3, 80, 64), (1, 80, 144), (1, 1, 1), (2, 49, 15), (1, 33, 200), (4, 16, 16)],
)
def test_the_encoder_takes_any_size(
    batch: int, height: int, width: int, exported_encoder: tuple[ConvViT, Path]
) -> None:
    model, path = exported_encoder
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    found = session(path).run(["E1", "E2", "E3"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model.forward_pyramid(images)
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-4)


def test_the_graphs_sides_have_names(exported_encoder: tuple[ConvViT, Path]) -> None:
    (images,) = session(exported_encoder[1]).get_inputs()
    assert images.shape == ["batch", 3, "height", "width"]
    written = sorted(path.name for path in exported_encoder[1].parent.iterdir())
    assert written == ["encoder.json", "encoder.onnx", "encoder.safetensors"]


def test_a_classifier_of_a_fixed_size(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, output = random_model(), tmp_path / "classifier.onnx"
    torch.save({"model": {f"module.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "a.pth")
    output.write_text("an earlier one")
    options = ["--output", str(output), "--img-size", "50x64", "--opset", "18", "--overwrite"]
    assert tool.main([str(tmp_path / "a.pth"), *options]) == 0
    printed = capsys.readouterr().out
    assert "classifier with outputs logits" in printed
    assert f"{output}\n" in printed
    graph = session(output)
    assert graph.get_inputs()[0].shape == ["batch", 3, 50, 64]
    images = torch.randn(2, 3, 50, 64, generator=torch.Generator().manual_seed(1))
    (logits,) = graph.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=1e-4, atol=1e-4)


def test_other_channels_than_rgb(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    model = ConvViT(DIMS, num_classes=3, img_size=32, in_chans=4).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "four.pth")
    assert tool.main([str(tmp_path / "four.pth"), "--img-size", "32"]) == 0
    assert "images: channels: 4, values 0 to 1" in capsys.readouterr().out
    graph, images = session(tmp_path / "four.onnx"), torch.randn(2, 4, 32, 32)
    assert graph.get_inputs()[0].shape == ["batch", 4, 32, 32]
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(graph.run(["logits"], {"images": images.numpy()})[0]), model(images), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("wrong", ["values", "shapes", "nan"])
def test_a_graph_that_computes_something_else_is_noticed(wrong: str, exported_encoder: tuple[ConvViT, Path]) -> None:
    model, path = exported_encoder
    other = random_model(seed=1) if wrong == "values" else model
    module: torch.nn.Module = encoders.Pyramid(other)
    if wrong == "nan":
        module = encoders.Pyramid(random_model())
        torch.nn.init.constant_(module.model.patch_embed1.proj.bias, torch.nan)
    if wrong == "shapes":
        module = torch.nn.Module()
        module.forward = lambda images: (*model.forward_pyramid(images)[:2], images)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="of shape" if wrong == "shapes" else "differs from PyTorch"):
        encoders.compare(module, open_session(path), [(1, 64, 64), (1, 40, 40)])


def refused(capsys: pytest.CaptureFixture, *options: Any) -> str:
    assert tool.main([str(option) for option in options]) == 2
    return capsys.readouterr().err


def test_files_that_lack_the_part(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = encoder_state(random_model())
    torch.save({"model": state}, tmp_path / "encoder.pth")
    torch.save({"model": {"conv1.weight": torch.zeros(2, 2)}}, tmp_path / "other.pth")
    torch.save({n: v for n, v in state.items() if not n.startswith("patch_embed4")}, tmp_path / "part.pth")
    torch.save({"model": ConvViTDet(DIMS, img_size=64).state_dict()}, tmp_path / "detector.pth")
    no_head = refused(capsys, tmp_path / "encoder.pth", "--part", "classifier")
    assert "has no classifier: it lacks fc_norm.weight" in no_head
    assert "--part encoder" in no_head
    assert "holds no such encoder" in refused(capsys, tmp_path / "other.pth")
    assert "lacks patch_embed4.weight, patch_embed4.bias" in refused(capsys, tmp_path / "part.pth")
    assert "an encoder of detection or segmentation" in refused(capsys, tmp_path / "detector.pth")
    assert "There is no checkpoint" in refused(capsys, tmp_path / "absent.pth")
    assert "expected pixels, as 224" in refused(capsys, tmp_path / "encoder.pth", "--img-size", "big")
    assert "are for detectors and segmenters" in refused(capsys, tmp_path / "encoder.pth", "--logits")
    for task in ("detector", "segmenter"):
        error = refused(capsys, tmp_path / "encoder.pth", "--part", task)
        assert f"holds no {task}, but an encoder or a classifier" in error
    assert not list(tmp_path.glob("*.onnx"))


def test_a_teacher_beside_the_encoder_is_no_detector(tmp_path: Path) -> None:
    state = encoder_state(random_model())
    teacher = {f"teachers.ema.encoder.{name}": value + 1 for name, value in state.items()}
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in {**state, **teacher}.items()}}, tmp_path / "a.pth"
    )
    _, model, part = encoders.read_model(tmp_path / "a.pth", None)
    assert part == "encoder"
    assert torch.equal(model.pos_embed, state["pos_embed"])


def test_outputs_that_cant_be_written(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: Any) -> None:
    weights = tmp_path / "encoder.pth"
    torch.save({"model": encoder_state(random_model())}, weights)
    (tmp_path / "encoder.onnx").write_text("an earlier one")
    monkeypatch.setattr(tool, "make_plan", lambda *_: pytest.fail("work began"))
    assert "--overwrite" in refused(capsys, weights)
    assert (tmp_path / "encoder.onnx").read_text() == "an earlier one"
    assert "There is no folder" in refused(capsys, weights, "--output", tmp_path / "absent" / "a.onnx")
    assert "is a folder" in refused(capsys, weights, "--output", tmp_path)
    assert "holds the weights" in refused(capsys, weights, "--output", weights, "--overwrite")
    assert "is a graph already" in refused(capsys, tmp_path / "encoder.onnx")

    def read_only(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tool, "TemporaryDirectory", read_only)
    assert "can't be written: Permission denied" in refused(capsys, weights, "--output", tmp_path / "b.onnx")


def test_missing_packages_are_named(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    (tmp_path / "any.pth").touch()
    error = refused(capsys, tmp_path / "any.pth")
    assert "Export needs onnxruntime: pip install onnx onnxruntime" in error


def test_an_exported_classifier_names_its_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import onnx

    model, path = random_model(), tmp_path / "model.pth"
    names = ["Bär", "dog", "fox"]
    save_weights(model.state_dict(), path, meta={"dataset_meta": {"classes": names, "folders": ["n1", "n2", "n3"]}})
    assert tool.main([str(path), "--img-size", "32"]) == 0
    assert "names its 3 classes" in capsys.readouterr().out
    held = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(held["classes"]) == names
    save_weights(model.state_dict(), path, meta={"dataset_meta": {"classes": names[:2]}})
    assert tool.main([str(path), "--overwrite"]) == 2
    assert "names 2 classes for 3 logits" in capsys.readouterr().err


def test_one_of_several_models_in_a_file_is_exported_beside_it(tmp_path: Path) -> None:
    first, second = random_model(0), random_model(1)
    torch.save(
        {"student": first.state_dict(), "teacher": {"net": second.state_dict(), "step": 3}}, tmp_path / "two.pth"
    )
    assert tool.main([f"{tmp_path / 'two.pth'}:teacher.net", "--img-size", "32"]) == 0
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    (found,) = session(tmp_path / "two.onnx").run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), second(images), atol=1e-4)


@pytest.mark.parametrize("part", ["encoder", "classifier"])
def test_a_plain_vit(part: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ViT({"embed_dim": 16, "depth": 2, "num_heads": 1}, num_classes=3, img_size=64).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save({"model": model.state_dict()}, tmp_path / "vit.pth")
    assert tool.main([str(tmp_path / "vit.pth"), "--part", part]) == 0
    for size in ((64, 64), (30, 100), (1, 1), (97, 48)):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        found = [torch.from_numpy(one) for one in session(tmp_path / "vit.onnx").run(None, {"images": images.numpy()})]
        with torch.no_grad():
            tokens, logits = model.forward_tokens(images), model(images)
        if part == "classifier":
            torch.testing.assert_close(found[0], logits, rtol=1e-4, atol=1e-4)
        else:
            torch.testing.assert_close(found[0], tokens[:, 0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found[1].flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-4, atol=1e-4)
            assert found[1].shape[2:] == tuple(-(-side // 16) for side in size)
