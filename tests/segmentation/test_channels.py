"""Segmentation of pictures of other channels than RGB, from RGB's weights to predictions."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bands import CHANNELS, to_channels
from PIL import Image

from convmae.backbones import ConvViT
from convmae.engine.config import save_config
from convmae.engine.errors import UserError
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.dataset import SegmentationDataset
from convmae.segmentation.data.layout import find_pairs
from convmae.segmentation.train import test as run_test
from convmae.segmentation.train import train
from convmae.tools import check_data, predict

MakeConfig = Callable[[], SegmentationConfig]


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_run_its_test_and_its_predictions(channels: int, tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    root = Path(config.data.root)
    for path in sorted((root / "images").rglob("*.jpg")):
        to_channels(path, channels)
    torch.save({"model": ConvViT("tiny", 0, 32).state_dict()}, tmp_path / "rgb.pth")
    config.model.in_chans, config.model.init = channels, str(tmp_path / "rgb.pth")
    config.data.photometric = False
    save_config(config, tmp_path / "recipe.yaml")
    checked = ["--config", str(tmp_path / "recipe.yaml"), "--work-dir", str(tmp_path / "check")]
    assert check_data.main(["seg", *checked]) == 0
    for name in ("run", "test"):
        (tmp_path / name).mkdir()
    train(config, tmp_path / "run", resume=False)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert run_test(config, tmp_path / "run" / "model.pth", tmp_path / "test")["mIoU"] == metrics["mIoU"]
    pictures, drawn = root / "images" / "validation", tmp_path / "drawn"
    argv = ["seg", str(tmp_path / "run" / "model.pth"), str(pictures), "--output", str(drawn), "--device", "cpu"]
    assert predict.main(argv) == 0
    assert len(list((drawn / "labels").iterdir())) == 3


@pytest.mark.parametrize("channels", CHANNELS)
def test_crops_hold_the_bands_of_the_file(channels: int, tiny_config: MakeConfig) -> None:
    config = tiny_config()
    config.data.photometric, config.data.flip = False, 1.0
    config.data.ratio_range, config.data.crop, config.data.scale = [1.0, 1.0], 64, [48, 40]
    root = Path(config.data.root)
    for path in sorted((root / "images" / "training").iterdir()):
        changed = to_channels(path, channels)
        if channels == 4:
            np.save(changed.with_suffix(".npy"), np.array(Image.open(changed)))
            changed.unlink()
    pairs = find_pairs(root / "images" / "training", root / "annotations" / "training")
    plain = SegmentationDataset(pairs, ["a", "b", "c"], config.data, False, channels)[0]["inputs"]
    mirrored = SegmentationDataset(pairs, ["a", "b", "c"], config.data, True, channels)[0]["inputs"]
    assert plain.shape == (channels, 40, 48)
    assert torch.equal(mirrored, plain.flip(2))


def test_distorted_colours_are_for_rgb(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    config.model.in_chans = 4
    with pytest.raises(UserError, match=r"model.in_chans is 4; set data.photometric=false"):
        train(config, tmp_path, resume=False)
