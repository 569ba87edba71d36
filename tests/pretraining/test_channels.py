"""Pretraining on pictures of other channels than RGB, from its files to reconstructions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bands import CHANNELS, to_channels
from PIL import Image

from convmae.engine.errors import UserError
from convmae.pretraining import MAE, ConvMAE, FastConvMAE
from convmae.pretraining.patches import patchify
from convmae.pretraining.teachers import EmaTeacher, PixelTeacher, build_teacher
from convmae.tools import pretrain, visualize

METHODS = {"convmae": ConvMAE, "fastconvmae": FastConvMAE, "mae": MAE}


@pytest.mark.parametrize(("channels", "method"), zip(CHANNELS, METHODS, strict=True))
def test_a_run_and_its_pictures(channels: int, method: str, tmp_path: Path) -> None:
    rgb = METHODS[method]("tiny", img_size=32)
    torch.save({"model": rgb.state_dict()}, tmp_path / "rgb.pth")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
        to_channels(tmp_path / "pictures" / f"{number}.png", channels)
    options = [f"data.root={tmp_path / 'pictures'}", "data.batch_size=2", "data.workers=0", "schedule.epochs=null"]
    options += ["schedule.steps=2", "schedule.warmup=0", f"model.method={method}", "model.img_size=32"]
    options += [f"model.in_chans={channels}", f"model.init={tmp_path / 'rgb.pth'}", "runtime.device=cpu"]
    options += ["runtime.precision=fp32", "targets=[{teacher: pixels}, {teacher: ema}]"]
    argv = ["--config", "convmae_tiny_96px.yaml", "--work-dir", str(tmp_path / "run"), "--cfg-options", *options]
    assert pretrain.main(argv) == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "decoder_pred.weight" in log.partition("missing")[2]
    model = METHODS[method].from_checkpoint(tmp_path / "run" / "pretrained.pth")
    assert model.in_chans == channels
    assert model.decoder_pred.out_features == 16 * 16 * channels
    drawn = [str(tmp_path / "run" / "pretrained.pth"), str(tmp_path / "pictures"), "--limit", "1", "--output"]
    assert visualize.main([*drawn, str(tmp_path / "reconstructions.png")]) == 0
    assert visualize.main([*drawn, str(tmp_path / "features.png"), "--features"]) == 0
    assert visualize.main([*drawn, str(tmp_path / "attention.png"), "--attention"]) == 0


@pytest.mark.parametrize("channels", CHANNELS)
def test_the_loss_is_that_of_every_channel(channels: int) -> None:
    torch.manual_seed(0)
    model = ConvMAE("tiny", img_size=32, norm_pix_loss=False, in_chans=channels).eval()
    images = torch.randn(2, channels, 32, 32)
    out = model(images, 0.5, torch.rand(2, 4))
    errors = (out.pred - patchify(images)).square().mean(2)
    torch.testing.assert_close(out.loss, (errors * out.mask).sum() / out.mask.sum())


def test_teachers_of_rgb_alone_are_refused() -> None:
    student = ConvMAE("tiny", img_size=32, in_chans=4)
    assert build_teacher("pixels", student, {}, (32, 32)).dim == 16 * 16 * 4
    assert isinstance(build_teacher("pixels", student, {}, (32, 32)), PixelTeacher)
    assert isinstance(build_teacher("ema", student, {}, (32, 32)), EmaTeacher)
    with pytest.raises(UserError, match=r"'clip' takes RGB pictures, model.in_chans is 4"):
        build_teacher("clip", student, {}, (32, 32))
