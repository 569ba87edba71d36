"""Feature pyramids p2..p6 from the encoder's maps: the published detector's network, and the ViTDet port's simple one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

Norm = Callable[[int], nn.Module] | None


class TopDownPyramid(FeaturePyramidNetwork):
    """Feature pyramid network (arXiv 1612.03144) on E1..E4."""

    def __init__(self, in_channels: Sequence[int], channels: int, norm: Norm) -> None:
        super().__init__(list(in_channels), channels, LastLevelMaxPool(), norm)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns p2..p6, [B, channels, H / s, W / s] at strides s = 4, 8, 16, 32, 64, of E1..E4."""
        names = ("p2", "p3", "p4", "p5")
        return list(super().forward(OrderedDict(zip(names, maps, strict=True))).values())


class SimplePyramid(nn.Module):
    """Simple feature pyramid (ViTDet, arXiv 2203.16527, section 3) on E3 alone; names are detectron2's.

    E3 is enlarged four and two times by transposed convolutions, taken as it is, and halved by max-pooling; a 1x1 and a 3x3
    convolution follow, each with its norm.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, norm: Norm) -> None:
        super().__init__()
        width = in_channels[2]
        between = [nn.Identity() if norm is None else norm(width // 2), nn.GELU()]
        self.simfp_2 = _level([_double(width), *between, _double(width // 2)], width // 4, channels, norm)
        self.simfp_3 = _level([_double(width)], width // 2, channels, norm)
        self.simfp_4 = _level([], width, channels, norm)
        self.simfp_5 = _level([nn.MaxPool2d(2, ceil_mode=True)], width, channels, norm)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns p2..p6, [B, channels, H / s, W / s] at strides s = 4, 8, 16, 32, 64, of E1..E4, of which E3 is read."""
        levels = [level(maps[2]) for level in (self.simfp_2, self.simfp_3, self.simfp_4, self.simfp_5)]
        return [*levels, levels[-1][:, :, ::2, ::2]]


class _ConvNorm(nn.Conv2d):
    """A convolution that keeps its size, with a norm, or else a bias."""

    def __init__(self, in_channels: int, channels: int, kernel: int, norm: Norm) -> None:
        super().__init__(in_channels, channels, kernel, padding=kernel // 2, bias=norm is None)
        self.norm = nn.Identity() if norm is None else norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


def _double(width: int) -> nn.Module:
    """Doubles the side and halves the channels."""
    return nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)


def _level(resize: list[nn.Module], width: int, channels: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(*resize, _ConvNorm(width, channels, 1, norm), _ConvNorm(channels, channels, 3, norm))
