"""What the shapes in a file tell of its model, and models built from their files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_states import DIMS, classifier, plain_vit, prefixed, random_state, same

from convmae.backbones import ConvViT, ConvViTDet, ConvViTSeg
from convmae.backbones.weights.checkpoint import CheckpointError
from convmae.backbones.weights.shapes import dims_from_state_dict


def test_dims_are_read_from_shapes() -> None:
    expected = {"embed_dims": (8, 12, 16), "depths": (1, 2, 3), "mlp_ratios": (2, 4, 3)}
    assert dims_from_state_dict(prefixed(random_state(classifier()), "backbone.")) == expected
    biased = ConvViTSeg(DIMS, img_size=64)
    assert dims_from_state_dict(biased.state_dict()) == expected | {"num_heads": 2}
    with pytest.raises(CheckpointError, match="holds no such encoder"):
        dims_from_state_dict(plain_vit())


@pytest.mark.parametrize(
    ("model", "attributes"),
    [
        (ConvViT("tiny", num_classes=7, img_size=96), ["num_classes"]),
        (ConvViTDet("tiny", img_size=128, window_size=5), ["window_size"]),
        (ConvViTSeg("tiny", img_size=128), ["downsample"]),
        (ConvViTSeg("tiny", img_size=64, downsample="max_pool"), ["downsample"]),
        (ConvViT(DIMS | {"num_heads": 1}, num_classes=2, img_size=32), []),  # a width of 16 has one head by default
    ],
    ids=["classifier", "detector", "segmenter", "segmenter without fpn", "other dims"],
)
def test_a_model_is_built_from_its_file(model: torch.nn.Module, attributes: list[str], tmp_path: Path) -> None:
    state = {name: v + 0.1 if v.is_floating_point() else v for name, v in model.state_dict().items()}
    torch.save({"model": prefixed(state, "module.")}, tmp_path / "weights.pth")
    again = type(model).from_checkpoint(tmp_path / "weights.pth", strict=True)  # type: ignore[attr-defined]
    assert again.dims == model.dims
    assert again.grid_size == model.grid_size
    assert [getattr(again, name) for name in attributes] == [getattr(model, name) for name in attributes]
    assert same(again, state)


@pytest.mark.parametrize(
    ("published", "prefix", "kind", "missing"),
    [
        ("detection", "backbone.bottom_up.", ConvViTDet, []),
        ("segmentation", "backbone.", ConvViTSeg, []),
        ("classifier", "", ConvViT, []),
        ("convmae", "", ConvViTDet, ["windowed_rel_pos_bias.", "global_rel_pos_bias."]),
    ],
)
def test_published_names_have_a_place(
    published: str, prefix: str, kind: type[torch.nn.Module], missing: list[str], tmp_path: Path
) -> None:
    shapes = json.loads((Path(__file__).parents[2] / "data" / f"{published}.keys.json").read_text())
    state = {prefix + name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    state[f"{prefix}pos_embed"] = torch.rand(shapes["pos_embed"])
    torch.save(
        {"model": {name: value.half().clone() for name, value in state.items() if "index" not in name}},
        tmp_path / "a.pth",
    )
    model = kind.from_checkpoint(tmp_path / "a.pth")  # type: ignore[attr-defined]
    report = model.load_report
    assert [name.rpartition("relative")[0] for name in report.missing] == missing
    decoder = ("decoder_", "mask_token", "norm.", "stage")
    assert [name for name in report.unexpected if not name.startswith(decoder)] == []
    assert report.resized == (["pos_embed"] if missing else [])


def test_a_detector_built_from_pretraining_weights_keeps_its_usual_grid(tmp_path: Path) -> None:
    torch.save(classifier().state_dict(), tmp_path / "a.pth")
    detector = ConvViTDet.from_checkpoint(tmp_path / "a.pth", img_size=128, size=DIMS)
    assert detector.window_size == (7, 7)
    assert detector.grid_size == (8, 8)
    assert detector.load_report.resized == ["pos_embed"]


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_heads_follow_the_width(size: str) -> None:
    with torch.device("meta"):
        model = ConvViT(size)
        again = ConvViT(dims_from_state_dict(model.state_dict()))
    assert again.dims == model.dims
