"""The published segmenter's file, as mmseg 0.x wrote it, gives the published label map; each of its names is accounted for."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from convmae.backbones import load_checkpoint
from convmae.benchmarks.forms.plain_layers import offset_index
from convmae.engine.config import load_config, save_config
from convmae.segmentation import predict as predicting
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.mmseg_parts import ADE20KDataset
from convmae.segmentation.model.upernet import build_model
from convmae.tools import predict, test_seg

MakeConfig = Callable[[], SegmentationConfig]

RECIPE = "upernet_convmae_160k_ade20k.yaml"
INDEX = "relative_position_index"
CLASSES = ["square", "stripe", "dot"]  # of the small data


def mmseg_file(state: dict[str, Tensor], classes: list[str], path: Path) -> Path:
    """Writes weights as mmcv 1.3 does, with what the public training code keeps beside them."""
    named: Any = OrderedDict(state)
    named._metadata = OrderedDict({"": {"version": 1}, "decode_head": {"version": 1}})
    meta = {
        "mmseg_version": "0.11.0+unknown",
        "config": "norm_cfg = dict(type='SyncBN', requires_grad=True)\n",
        "CLASSES": tuple(classes),
        "PALETTE": [[number, 0, 0] for number in range(len(classes))],
        "env_info": "sys.platform: linux",
        "seed": None,
        "exp_name": "upernet.py",
        "hook_msgs": {"best_score": np.float64(0.5166)},
        "iter": 160_000,
        "epoch": 127,
    }
    optimizer = {
        "state": {0: {"step": 160_000, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}},
        "param_groups": [{"lr": 0.0, "lr_scale": 1.0, "params": [0], "param_names": ["backbone.pos_embed"]}],
    }
    amp = OrderedDict(loss_scaler0={"loss_scale": 65536.0, "unskipped": 1000})
    torch.save({"meta": meta, "state_dict": named, "optimizer": optimizer, "amp": amp}, path)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The seeded weights of the reference in a file like the published one."""
    keys, outputs = reference.reference("upernet")
    state = reference.seeded_model(keys, int(outputs["weight_seed"]), "backbone.", {"conv_seg": 1})
    index = offset_index((32, 32))
    for name in keys:
        if name.endswith(INDEX):
            state[name] = index
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(160_000)
    assert state.keys() == keys.keys()
    path = tmp_path_factory.mktemp("published") / "upernet_convmae_base.pth"
    yield mmseg_file(state, ADE20KDataset.METAINFO["classes"], path)
    path.unlink()  # of 600 MB


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # the model is of shapes alone
def test_every_name_of_the_file_is_accounted_for(published: Path) -> None:
    keys, _ = reference.reference("upernet")
    with torch.device("meta"):
        model = build_model(load_config(SegmentationConfig, RECIPE, ["runtime.device=cpu"]), 150)
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == {
        name: shape for name, shape in keys.items() if not name.endswith(INDEX)
    }
    report = load_checkpoint(model, published, strict=True)
    assert report.loaded == report.total == len(model.state_dict())
    assert report.loaded + len(report.ignored) == len(keys)
    assert all(name.endswith(INDEX) for name in report.ignored)
    assert not report.missing + report.unexpected + report.resized + report.converted


def test_the_file_gives_the_published_label_map(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, outputs = reference.reference("upernet")
    inputs = reference.image(int(outputs["image_seed"]), 1, 512)
    kept: dict[str, Any] = {}

    class Predictor(predicting.Predictor):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            kept["model"] = self.model
            self.model.backbone.register_forward_hook(lambda *found: kept.update(maps=found[2]))
            self.model.decode_head.conv_seg.register_forward_hook(lambda *found: kept.update(logits=found[2]))

    def reference_image(image: Image.Image) -> Tensor:
        """The reference's picture was normalised from the start, and no bytes can be."""
        assert image.size == (512, 512)
        processor = kept["model"].data_preprocessor
        return (inputs * processor.std + processor.mean)[0]

    monkeypatch.setattr(predicting, "Predictor", Predictor)
    monkeypatch.setattr(predicting, "to_tensor", reference_image)
    Image.new("RGB", (512, 512)).save(tmp_path / "picture.png")
    picture, output = str(tmp_path / "picture.png"), str(tmp_path / "predictions")
    options = ["--config", RECIPE, "--output", output, "--device", "cpu", "--cfg-options", "runtime.precision=fp32"]
    assert predict.main(["seg", str(published), picture, *options]) == 0
    assert (kept["logits"].argmax(1)[0, ::2, ::2].numpy() == outputs["argmax"]).mean() >= 0.999
    labels = np.asarray(Image.open(tmp_path / "predictions" / "labels" / "picture.png"))
    scores = F.interpolate(kept["logits"], size=(512, 512), mode="bilinear", align_corners=False)
    assert (labels - 1 == scores.argmax(1)[0].numpy()).mean() >= 0.999  # ADE20K's label maps number from 1

    with torch.inference_mode():
        aux = kept["model"].auxiliary_head(kept["maps"])
    for name, found in (("logits", kept["logits"][:, ::10, ::8, ::8]), ("aux", aux[:, ::10, ::4, ::4])):
        difference = np.abs(found.numpy() - outputs[name]).max()
        assert difference <= 1e-3 * np.abs(outputs[name]).max(), name


@pytest.fixture
def run(tiny_config: MakeConfig, tmp_path: Path) -> dict[str, Tensor]:
    """A small segmenter's weights as the public code names them; its recipe lies beside."""
    config = tiny_config()
    save_config(config, tmp_path / "config.yaml")
    torch.manual_seed(0)
    state = build_model(config, 3).state_dict()
    tables = [name for name in state if name.endswith("relative_position_bias_table")]
    return state | {name.replace("bias_table", "index"): offset_index((2, 2)) for name in tables}


def evaluate(path: Path) -> int:
    return test_seg.main([str(path), "--work-dir", str(path.with_suffix("")), "--overwrite"])


def test_a_file_is_evaluated_as_it_is(run: dict[str, Tensor], tmp_path: Path) -> None:
    mmseg_file(run, CLASSES, tmp_path / "whole.pth")
    assert evaluate(tmp_path / "whole.pth") == 0
    log = (tmp_path / "whole" / "log.txt").read_text()
    count = sum(not name.endswith(INDEX) for name in run)
    assert f"{count} of the model's {count} tensors loaded" in log
    assert "ignored, for they are no weights (6): backbone.blocks3.{0-5}.attn.relative_position_index" in log
    for word in ("missing", "unexpected"):
        assert word not in log


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["square", "line", "dot"], "with 'line' where the class list has 'stripe'"),
        (["stripe", "square", "dot"], "the same names in another order"),
    ],
)
def test_weights_of_other_classes_or_another_order_are_refused(
    run: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture, classes: list[str], said: str
) -> None:
    mmseg_file(run, classes, tmp_path / "other.pth")
    assert evaluate(tmp_path / "other.pth") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'other.pth'} was trained on classes" in error
    assert said in error


def test_names_with_synonyms_are_the_names_that_mmseg_shortens(run: dict[str, Tensor], tmp_path: Path) -> None:
    mmseg_file(run, ["square, quadrat", "Stripe", "dot"], tmp_path / "long.pth")
    assert evaluate(tmp_path / "long.pth") == 0


def test_what_only_training_needs_may_be_absent_and_what_is_not_known_is_named(
    run: dict[str, Tensor], tmp_path: Path
) -> None:
    state = {f"module.{name}": value for name, value in run.items() if not name.startswith("auxiliary_head.")}
    state["module.backbone.norm.weight"] = torch.ones(256)
    mmseg_file(state, CLASSES, tmp_path / "part.pth")
    assert evaluate(tmp_path / "part.pth") == 0
    log = (tmp_path / "part" / "log.txt").read_text()
    assert "unexpected (1): module.backbone.norm.weight" in log
    assert "missing (8): auxiliary_head.conv_seg.weight" in log


def test_a_file_that_lacks_a_tensor_is_refused(
    run: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    del run["decode_head.fpn_convs.1.bn.running_mean"]
    mmseg_file(run, CLASSES, tmp_path / "lacking.pth")
    assert evaluate(tmp_path / "lacking.pth") == 2
    message = capsys.readouterr().err
    assert "lacking.pth leaves 1 of the model's tensors unfilled" in message
    assert "decode_head.fpn_convs.1.bn.running_mean" in message


def test_its_encoder_starts_another_model(run: dict[str, Tensor], tiny_config: MakeConfig, tmp_path: Path) -> None:
    mmseg_file(run, CLASSES, tmp_path / "whole.pth")
    encoder = build_model(tiny_config(), 7).backbone
    report = load_checkpoint(encoder, tmp_path / "whole.pth")
    assert not report.missing
    assert all(name.startswith(("decode_head.", "auxiliary_head.")) for name in report.unexpected)
    assert all(torch.equal(value, run[f"backbone.{name}"]) for name, value in encoder.state_dict().items())
