"""What the models that other frameworks build of a recipe have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from convmae.detection.config import DetectionConfig
from convmae.detection.data.dataset import Sample
from convmae.engine.errors import UserError


def check_recipe(config: DetectionConfig) -> None:
    """Raises UserError for a recipe that is none of the shipped configs' models, whatever its sizes."""
    model = config.model
    expected = {
        "model.cascade": (model.cascade, False),
        "model.pyramid": (model.pyramid, "fpn"),
        "model.masks": (model.masks, True),
        "model.in_chans": (model.in_chans, 3),
        "data.padding": (config.data.padding, "grey"),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise UserError(
                f"{name} is {found}; expected {wanted}, which the shipped configs of other frameworks have."
            )


def encoder_options(config: DetectionConfig) -> dict[str, Any]:
    """Returns the arguments of their ``ConvViTDet`` for the encoder of a recipe."""
    model = config.model
    return {
        "size": model.size,
        "img_size": config.data.img_size,
        "window_size": model.window_size,
        "global_blocks": model.global_blocks or None,
        "drop_path_rate": model.drop_path,
        "attend_to_padding": model.attend_to_padding,
        "position": model.position,
        "pretrain_img_size": model.pretrain_img_size or None,
    }


def contents(images: Tensor, samples: Sequence[Sample]) -> list[Tensor]:
    """Returns the part of each square of a batch [B, C, side, side] that its picture covers; frameworks pad it themselves."""
    return [
        square[:, : sample.geometry.content[0], : sample.geometry.content[1]]
        for square, sample in zip(images, samples, strict=True)
    ]
