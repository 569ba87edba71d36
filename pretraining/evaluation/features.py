"""Feature maps as pictures: the first three principal components of an encoder's channels as red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from convmae.backbones import ConvViTEncoder
from convmae.backbones.encoder import Encoder
from convmae.pretraining.evaluation.reconstructions import panel, to_picture
from convmae.pretraining.patches import PATCH
from convmae.reports.drawing import row

OUTLIERS = 0.01  # part of the positions at either end of a component that may be clipped


class FeatureMap(NamedTuple):
    """An encoder's output for one picture."""

    name: str
    stride: int  # pixels of the picture that a position stands for, down and across
    values: Tensor  # [C, h, w]


@torch.inference_mode()
def feature_maps(encoder: Encoder, image: Tensor) -> list[FeatureMap]:
    """Returns E1, E2 and E3 of a normalised picture [C, H, W], nothing masked; of a plain ViT its last block's output."""
    images = image[None].to(next(encoder.parameters()).device)
    if isinstance(encoder, ConvViTEncoder):
        named = list(zip(("E1", "E2", "E3"), (4, 8, 16), encoder.forward_pyramid(images), strict=True))
    else:
        rows = -(-image.shape[1] // PATCH)
        tokens = encoder.forward_features(images).transpose(1, 2)
        named = [("last block", PATCH, tokens.unflatten(2, (rows, -1)))]
    return [FeatureMap(name, stride, values[0].float().cpu()) for name, stride, values in named]


def feature_strip(image: Tensor, maps: Sequence[FeatureMap]) -> Image.Image:
    """Returns the `feature_panels` side by side, each under its caption."""
    return row(*feature_panels(image, maps))


def feature_panels(image: Tensor, maps: Sequence[FeatureMap]) -> tuple[list[Image.Image], list[str]]:
    """Returns a picture [C, H, W] and its feature maps' principal components, at its size, and what is to be said of each."""
    panels, captions = [to_picture(image)], ["input"]
    for name, stride, values in maps:
        components, share = principal_components(values)
        panels.append(panel(_colours(components, stride, *image.shape[1:])))
        captions.append(f"{name}, stride {stride}, {len(values)} channels: {100 * share:.0f} % of the variance")
    return panels, captions


def principal_components(values: Tensor) -> tuple[Tensor, float]:
    """Projects a map [C, h, w] on the three directions in which its positions vary most.

    Returns:
        The projections [3, h, w], with zero mean, each signed so that its channel of largest weight counts positively, and
        their share of the whole variance. A map that varies in fewer directions has zeros for the others.
    """
    rows = values.flatten(1).T.double()
    centred = rows - rows.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
    directions = directions[:, -3:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    projections = centred @ (directions * largest.sign())
    rounding = rows.square().sum() * torch.finfo(torch.float32).eps ** 2
    found = variances[-3:].flip(0) > rounding
    shown = F.pad(projections * found, (0, 3 - len(found)))
    share = shown.square().sum() / centred.square().sum() if found.any() else 0.0
    return shown.T.unflatten(1, values.shape[1:]).float(), float(share)


def _colours(components: Tensor, stride: int, height: int, width: int) -> Image.Image:
    """Components [3, h, w] as red, green and blue, between its percentiles; a position is a square of ``stride`` pixels."""
    ends = torch.tensor([OUTLIERS, 1 - OUTLIERS], dtype=components.dtype)
    low, high = components.flatten(1).quantile(ends, dim=1)[..., None, None]
    scaled = ((components - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    pixels = (255 * scaled).round().byte().repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    return Image.fromarray(pixels[:, :height, :width].permute(1, 2, 0).numpy())
