"""Encoders of other channels than RGB: RGB's first layer fits them, and what it computes on grey stays."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models import adapt_input_conv
from torch import nn

from convmae.backbones import CheckpointError, ConvViT, ConvViTDet, ConvViTSeg, ViT, load_checkpoint, load_encoder
from convmae.pretraining import MAE, ConvMAE, FastConvMAE

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 1, 1), "num_heads": 2}
VIT = {"embed_dim": 16, "depth": 1, "num_heads": 2}
MODELS = {
    "ConvViT": lambda channels: ConvViT(DIMS, 3, 32, in_chans=channels),
    "ConvViTDet": lambda channels: ConvViTDet(DIMS, 32, in_chans=channels),
    "ConvViTSeg": lambda channels: ConvViTSeg(DIMS, 64, in_chans=channels),
    "ViT": lambda channels: ViT(VIT, 3, 32, in_chans=channels),
}
PRETRAINED = {
    "ConvMAE": lambda channels: ConvMAE(DIMS, 32, in_chans=channels),
    "FastConvMAE": lambda channels: FastConvMAE(DIMS, 32, in_chans=channels),
    "MAE": lambda channels: MAE(VIT, 32, in_chans=channels),
}


def first_layer(model: nn.Module) -> str:
    return "patch_embed.proj" if isinstance(model, (ViT, MAE)) else "patch_embed1.proj"


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
@pytest.mark.parametrize("name", MODELS | PRETRAINED)
def test_weights_of_rgb_fit_by_timms_rule_and_say_so(name: str, channels: int) -> None:
    make = (MODELS | PRETRAINED)[name]
    torch.manual_seed(0)
    rgb, model = make(3), make(channels)
    state = {f"backbone.{name}": value for name, value in rgb.state_dict().items()}
    report = load_checkpoint(model, state)
    layer = first_layer(model)
    expected = adapt_input_conv(channels, rgb.get_parameter(f"{layer}.weight").detach())
    assert torch.equal(model.get_parameter(f"{layer}.weight"), expected)
    assert report.converted == [f"{layer}.weight"]
    assert f"d from 3 to {channels} channels" in report.notes[f"{layer}.weight"]
    assert report.missing == (["decoder_pred.weight", "decoder_pred.bias"] if name in PRETRAINED else [])
    model.eval()(torch.randn(2, channels, 64, 64))


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("name", MODELS)
def test_a_grey_picture_gives_what_it_gave_in_rgb(name: str, channels: int) -> None:
    torch.manual_seed(0)
    rgb, model = MODELS[name](3).eval(), MODELS[name](channels).eval()
    load_checkpoint(model, rgb.state_dict())
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected, found = rgb(grey.expand(-1, 3, -1, -1)), model(grey.expand(-1, channels, -1, -1))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_file_tells_its_channels(name: str, tmp_path: Path) -> None:
    model = PRETRAINED[name](5)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    again = type(model).from_checkpoint(tmp_path / "weights.pth", strict=True, decoder_heads=16)
    assert again.in_chans == 5
    assert again(torch.randn(1, 5, 32, 48)).pred.shape[-1] == 16 * 16 * 5
    encoder = load_encoder(tmp_path / "weights.pth")
    assert encoder.in_chans == 5
    with pytest.raises(CheckpointError, match=r"of 5 channels in the file, of 3 in the model"):
        load_encoder(tmp_path / "weights.pth", in_chans=3)


def test_other_channels_than_rgb_are_not_turned_into_each_other() -> None:
    four, model = MODELS["ConvViT"](4), MODELS["ConvViT"](3)
    before = model.patch_embed1.proj.weight.detach().clone()
    report = load_checkpoint(model, four.state_dict())
    assert report.missing == ["patch_embed1.proj.weight"] == report.unexpected
    assert "the model's in_chans must be 4" in str(report)
    assert torch.equal(model.patch_embed1.proj.weight, before)


@pytest.mark.parametrize("make", [lambda: ConvViT(DIMS, in_chans=0), lambda: ViT(VIT, in_chans=-1)])
def test_no_channel_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="expected at least 1 channel"):
        make()
