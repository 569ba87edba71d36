"""Fine-tuning and probes on pictures of other channels than RGB, from RGB's weights."""

import json
from pathlib import Path

import pytest
import torch
from bands import CHANNELS, to_channels

from convmae.backbones import ConvViT
from convmae.tools import finetune, knn, linear_probe, test_cls

OPTIONS = ["data.batch_size=8", "data.workers=0", "model.img_size=32", "runtime.device=cpu", "runtime.precision=fp32"]
TRAINING = ["augment.rand_augment=", "schedule.epochs=null", "schedule.steps=2", "schedule.warmup=0"]


@pytest.mark.parametrize("channels", CHANNELS)
def test_runs_on_other_channels_than_rgb(channels: int, folders: Path, tmp_path: Path) -> None:
    for path in sorted(folders.rglob("*.png")):
        to_channels(path, channels)
    rgb = tmp_path / "rgb.pth"
    torch.save({"model": ConvViT("tiny", 0, 32).state_dict()}, rgb)
    run = tmp_path / "run"
    options = [*OPTIONS, f"data.root={folders}", f"model.init={rgb}", f"model.in_chans={channels}"]
    argv = ["--config", "finetune_tiny_96px.yaml", "--work-dir", str(run), "--cfg-options", *options, *TRAINING]
    assert finetune.main(argv) == 0
    assert f"{channels}" in (run / "log.txt").read_text().partition("converted (1): patch_embed1.proj.weight")[2]
    assert ConvViT.from_checkpoint(run / "model.pth").in_chans == channels
    assert test_cls.main([str(run / "model.pth"), "--work-dir", str(tmp_path / "test")]) == 0
    scores = [json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path / "test")]
    assert scores[0]["top1"] == scores[1]["top1"]

    probe = [*OPTIONS, f"data.root={folders}", f"model.features={tmp_path / 'features'}", "linear.epochs=11"]
    for tool, name, weights in ((knn, "knn", [f"model.init={rgb}", f"model.in_chans={channels}"]),
                                (linear_probe, "probe", [f"model.init={run / 'model.pth'}"])):  # fmt: skip
        argv = ["--config", "probe_96px.yaml", "--work-dir", str(tmp_path / name), "--cfg-options", *probe, *weights]
        assert tool.main(argv) == 0


def test_what_is_for_rgb_alone_is_refused(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for path in sorted(folders.rglob("*.png")):
        to_channels(path, 4)
    argv = ["--config", "finetune_tiny_96px.yaml", "--work-dir", str(tmp_path / "run"), "--cfg-options", *OPTIONS]
    argv += [f"data.root={folders}", "model.in_chans=4"]
    assert finetune.main([*argv, "augment.rand_augment=rand-m9-mstd0.5-inc1"]) == 2
    assert 'model.in_chans is 4; expected it empty: augment.rand_augment=""' in capsys.readouterr().err
