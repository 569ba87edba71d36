"""The feature pyramids: the simple one against detectron2's layout and its formula, written plainly."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.detection.model.heads import norm_layer
from convmae.detection.model.pyramid import SimplePyramid, TopDownPyramid

CHANNELS = (8, 12, 16, 16)


def maps(height: int, width: int) -> list[Tensor]:
    torch.manual_seed(0)
    sides = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    return [torch.randn(2, channels, *side) for channels, side in zip(CHANNELS, sides, strict=True)]


def layer_norm(x: Tensor, module: torch.nn.Module) -> Tensor:
    """Over channels, eps 1e-6."""
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    return x * module.weight[:, None, None] + module.bias[:, None, None]


def enlarge(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution with kernel = stride = 2: each pixel becomes a 2x2 tile. weight: [C, out, 2, 2]."""
    tiles = torch.einsum("bchw,cokl->bohkwl", x, weight)
    return tiles.flatten(4, 5).flatten(2, 3) + bias[:, None, None]


@pytest.mark.parametrize("kind", [TopDownPyramid, SimplePyramid])
@pytest.mark.parametrize("norm", ["bn", "ln", "none"])
def test_five_levels_at_strides_4_to_64(kind: type, norm: str) -> None:
    pyramid = kind(CHANNELS, 10, norm_layer(norm))
    found = pyramid(maps(64, 96))
    assert [tuple(level.shape) for level in found] == [
        (2, 10, 64 // s, 96 // s + (96 % s > 0)) for s in (4, 8, 16, 32, 64)
    ]
    assert torch.equal(found[4], found[3][:, :, ::2, ::2])
    sum(level.sum() for level in found).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_the_simple_pyramid_is_its_formula_on_e3_alone() -> None:
    pyramid = SimplePyramid(CHANNELS, 10, norm_layer("ln"))
    for parameter in pyramid.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    given = maps(64, 96)
    e3 = given[2]
    resized = {
        "2": enlarge(
            F.gelu(layer_norm(enlarge(e3, *pyramid.simfp_2[0].parameters()), pyramid.simfp_2[1])),
            *pyramid.simfp_2[3].parameters(),
        ),
        "3": enlarge(e3, *pyramid.simfp_3[0].parameters()),
        "4": e3,
        "5": e3.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5)),
    }
    expected = []
    for level, x in resized.items():
        narrow, smooth = getattr(pyramid, f"simfp_{level}")[-2:]
        assert narrow.bias is None
        x = layer_norm(torch.einsum("bchw,oc->bohw", x, narrow.weight[:, :, 0, 0]), narrow.norm)
        expected.append(layer_norm(F.conv2d(x, smooth.weight, padding=1), smooth.norm))
    found = pyramid([torch.full_like(x, torch.nan) if x is not e3 else x for x in given])
    for ours, wanted in zip(found[:4], expected, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)


def test_the_simple_pyramid_has_detectron2s_names() -> None:
    shapes = {
        name: tuple(x.shape) for name, x in SimplePyramid((256, 384, 768), 256, norm_layer("ln")).state_dict().items()
    }
    expected = {
        "simfp_2.0.weight": (768, 384, 2, 2), "simfp_2.0.bias": (384,), "simfp_2.1.weight": (384,),
        "simfp_2.1.bias": (384,), "simfp_2.3.weight": (384, 192, 2, 2), "simfp_2.3.bias": (192,),
        "simfp_3.0.weight": (768, 384, 2, 2), "simfp_3.0.bias": (384,),
    }  # fmt: skip
    for level, first, width in ((2, 4, 192), (3, 1, 384), (4, 0, 768), (5, 1, 768)):
        for place, shape in ((first, (256, width, 1, 1)), (first + 1, (256, 256, 3, 3))):
            expected[f"simfp_{level}.{place}.weight"] = shape
            expected |= {f"simfp_{level}.{place}.norm.{part}": (256,) for part in ("weight", "bias")}
    assert shapes == expected


@pytest.mark.parametrize("kind", [TopDownPyramid, SimplePyramid])
def test_odd_maps_keep_their_last_row(kind: type) -> None:
    found = kind(CHANNELS, 10, None)(maps(16 * 5, 16 * 3))
    assert [tuple(level.shape[2:]) for level in found[2:]] == [(5, 3), (3, 2), (2, 1)]
