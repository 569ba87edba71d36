"""Detection on pictures of other channels than RGB, from RGB's weights to predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bands import CHANNELS, to_channels
from PIL import Image
from tiny_detector import tiny_config

from convmae.backbones import ConvViTDet
from convmae.detection.checks.data_check import check_data
from convmae.detection.config import DetectionConfig
from convmae.detection.data.transforms import Geometry, large_scale_jitter
from convmae.detection.train import test as run_test
from convmae.detection.train import train
from convmae.engine.errors import UserError
from convmae.engine.pictures.bands import OTHER_BANDS
from convmae.tools import predict


def converted(split: Path, channels: int) -> None:
    """Replaces the pictures of a split, whose JSON file then names the new ones."""
    content = json.loads((split / "instances.json").read_text())
    for image in content["images"]:
        path = to_channels(split / "images" / image["file_name"], channels)
        image["file_name"] = path.relative_to(split / "images").as_posix()
    (split / "instances.json").write_text(json.dumps(content))


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_run_its_test_and_its_predictions(channels: int, split: Path) -> None:
    converted(split, channels)
    config = tiny_config(split, f"model.in_chans={channels}", f"model.init={split / 'rgb.pth'}")
    options = config.model
    torch.save({"model": ConvViTDet(options.size, 64, options.window_size).state_dict()}, split / "rgb.pth")
    assert not [fault for one in check_data(config) for fault in one.faults if fault.kind.startswith("unreadable")]
    for name in ("run", "test"):
        (split / name).mkdir()
    train(config, split / "run", resume=False)
    metrics = json.loads((split / "run" / "metrics.json").read_text())
    assert "bbox_mAP" in metrics
    assert run_test(config, split / "run" / "model.pth", split / "test")["bbox_mAP"] == metrics["bbox_mAP"]
    argv = ["det", str(split / "run" / "model.pth"), str(split / "images"), "--output", str(split / "drawn")]
    assert predict.main([*argv, "--device", "cpu"]) == 0
    assert len(json.loads((split / "drawn" / "detections.json").read_text())["images"]) == 4


def test_pictures_of_other_bands_are_named(split: Path) -> None:
    converted(split, 6)
    with pytest.raises(UserError, match=r"has 6 bands, model.in_chans is 3; expected as many: set model.in_chans=6"):
        train(tiny_config(split), split, resume=False)
    faults = [fault for one in check_data(tiny_config(split)) for fault in one.faults]
    assert OTHER_BANDS in {fault.kind for fault in faults}


@pytest.mark.parametrize("padding", ["grey", "mean"])
def test_each_band_goes_where_it_would_in_rgb(padding: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))
    bands = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    more = torch.cat([bands, bands])
    for geometry in (Geometry((53, 37), 80, 56, 64, 9, 0, True), large_scale_jitter(53, 37, 64, (0.5, 0.6), 1.0)):
        found, expected = geometry.image(more, padding), geometry.image(picture, padding)
        height, width = geometry.content
        assert torch.equal(found[:, :height, :width], torch.cat([expected, expected])[:, :height, :width])
        assert found[:, height:].unique().tolist() in ([], [128 if padding == "grey" else 114])


def test_the_option_has_rgb_as_its_default() -> None:
    assert DetectionConfig().model.in_chans == 3
