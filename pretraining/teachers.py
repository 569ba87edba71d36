"""Who gives the targets: pixels, the encoder's own moving average, and frozen models of timm (DINO, DINOv3, CLIP, any other).

A teacher takes whole images [B, C, H, W], normalised as ImageNet's, sides multiples of 16, and gives [B, L, C]: values of each
16x16 patch, once an image, whatever the number of masked views.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import timm
import timm.data
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmae.backbones.position import Grid
from convmae.backbones.weights.checkpoint import load_checkpoint
from convmae.engine.errors import UserError
from convmae.engine.machine.sharding import local
from convmae.engine.pictures.images import IMAGENET_MEAN, IMAGENET_STD
from convmae.pretraining.autoencoder import MaskedAutoencoder
from convmae.pretraining.config import EMA, PIXELS
from convmae.pretraining.patches import PATCH, patchify

TIMM_NAMES = {
    "dino": "vit_base_patch16_224.dino",
    "dinov3": "vit_base_patch16_dinov3.lvd1689m",
    "clip": "vit_base_patch16_clip_quickgelu_224.openai",
}


class Teacher(nn.Module):
    """Gives each patch's values; `dim` is C."""

    dim: int


class PixelTeacher(Teacher):
    """The pixels of each patch, C = 16 * 16 * channels."""

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        self.dim = PATCH * PATCH * in_chans

    def forward(self, images: Tensor) -> Tensor:
        return patchify(images)


class EmaTeacher(Teacher):
    """An exponential moving average of the student's encoder; its values are the fused, normalised output.

    Its weights are part of a run's checkpoint, so that a resumed run goes on from them.
    """

    def __init__(self, student: MaskedAutoencoder) -> None:
        super().__init__()
        self.dim = student.width
        self.encoder = copy.deepcopy(student)
        self.encoder.remove_decoder()
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.encode_whole(images)

    @torch.no_grad()
    def update(self, student: MaskedAutoencoder, momentum: float) -> None:
        """Moves each weight to ``momentum`` of its own and the rest of the student's."""
        live = dict(student.named_parameters())
        own = dict(self.encoder.named_parameters())
        torch._foreach_lerp_(
            [local(value) for value in own.values()], [local(live[name]) for name in own], 1 - momentum
        )


class TimmTeacher(Teacher):
    """A frozen model of timm's; its values are the last feature map after the final norm, resampled to the student's grid.

    It is fed images in its own normalisation. Its weights are no part of a run's checkpoint.

    Args:
        name: of `TIMM_NAMES`, or timm's own.
        weights: a local file; empty: timm's hub; None: random numbers, of which the shapes alone are a teacher's.
        image_size: height and width of the images to come, on which it is tried out.

    Raises:
        UserError: no such model, weights that can't be had or don't fit, a model without a grid of features.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, name: str, weights: str | None, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.name = name
        net = _create(name, weights).eval().requires_grad_(False)
        self._frozen = (net,)  # a tuple hides it from the state dict
        cfg = timm.data.resolve_model_data_config(net)
        mean, std = (torch.tensor(cfg[name]).view(-1, 1, 1) for name in ("mean", "std"))
        given_mean, given_std = (torch.tensor(known).view(-1, 1, 1) for known in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", given_std / std, persistent=False)
        self.register_buffer("shift", (given_mean - mean) / std, persistent=False)
        self.dim = self._try(image_size)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TimmTeacher:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def network(self) -> nn.Module:
        """timm's model, which `modules` and `parameters` don't have."""
        return self._frozen[0]

    def forward(self, images: Tensor) -> Tensor:
        grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
        return resample_map(self.feature_map(images), grid).flatten(2).transpose(1, 2)

    def feature_map(self, images: Tensor) -> Tensor:
        """Returns the teacher's own map [B, C, h, w] of images in ImageNet's normalisation."""
        net: Any = self.network
        return net.forward_intermediates(
            images * self.scale + self.shift, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )[-1]

    def _try(self, image_size: tuple[int, int]) -> int:
        """Returns the channels of the map of an image of that size."""
        height, width = image_size
        wanted = f"expected a map that can be resampled to the student's {height // PATCH}x{width // PATCH}"
        try:
            with torch.no_grad():
                found = self.feature_map(torch.zeros(1, 3, height, width))
        except Exception as error:  # whatever a model of timm's raises for a size or a call it does not know
            raise UserError(
                f"The teacher {self.name!r} gives no features for pictures of {width}x{height} pixels "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); {wanted}."
            ) from None
        if found.ndim != 4 or min(found.shape[2:]) < 2:
            shape = "x".join(map(str, found.shape[2:])) or "no"
            raise UserError(f"The teacher {self.name!r} gives a {shape} grid for {width}x{height} pixels; {wanted}.")
        return found.shape[1]


def resample_map(values: Tensor, grid: Grid) -> Tensor:
    """Returns [B, C, h, w] at another grid, bilinear with antialiasing, in fp32."""
    if tuple(values.shape[2:]) == grid:
        return values
    return F.interpolate(values.float(), size=grid, mode="bilinear", align_corners=False, antialias=True)


def build_teacher(
    name: str, student: MaskedAutoencoder, weights: Mapping[str, str | None], image_size: tuple[int, int]
) -> Teacher:
    """Returns the teacher of that name; ``weights`` are files by teacher, None for random numbers, ``image_size`` a height and
    a width.
    """
    if name == PIXELS:
        return PixelTeacher(student.in_chans)
    if name == EMA:
        return EmaTeacher(student)
    if student.in_chans != 3:
        raise UserError(
            f"The teacher {name!r} takes RGB pictures, model.in_chans is {student.in_chans}; expected targets of {PIXELS} and "
            f"{EMA} alone, which take any, or model.in_chans=3."
        )
    return TimmTeacher(name, weights.get(name, ""), image_size)


def _create(name: str, weights: str | None) -> nn.Module:
    model = TIMM_NAMES.get(name, name)
    if not timm.is_model(model):
        raise UserError(
            f"There is no teacher {name!r}; expected {PIXELS}, {EMA}, {', '.join(TIMM_NAMES)} or the name of a model that "
            "timm lists."
        )
    if weights is None:
        return _any_size(model, pretrained=False)
    if weights:
        net = _any_size(model, pretrained=False)
        report = load_checkpoint(net, weights)
        if report.missing:
            raise UserError(
                f"{weights} does not fit the teacher {name!r}, timm's {model}: {len(report.missing)} of its {report.total} "
                f"tensors are not in it ({report.missing[0]}, ...); expected a file in timm's layout."
            )
        return net
    try:
        return _any_size(model, pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:  # what timm and the hub's client raise
        raise UserError(
            f"The weights of the teacher {name!r}, timm's {model}, can't be fetched ({str(error).splitlines()[0]}). Give a "
            f"file: teachers.weights.{name}=PATH."
        ) from None


def _any_size(model: str, pretrained: bool) -> nn.Module:
    """The model, made to take images of any size where it has an option for that."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    try:
        return timm.create_model(model, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError:  # a convolutional model takes any size as it is
        return timm.create_model(model, pretrained=pretrained, num_classes=0)
