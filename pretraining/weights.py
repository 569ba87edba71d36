"""Full pretraining checkpoints, ours and published ones, with what is known of how they were trained."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from convmae.backbones import family_of
from convmae.engine.errors import UserError
from convmae.engine.files import read_config
from convmae.pretraining import METHODS, MaskedAutoencoder
from convmae.pretraining.config import PretrainingConfig, PretrainingModelOptions
from convmae.pretraining.targets import Target


def load_pretrained(
    path: Path, norm_pix_loss: bool | None = None, method: str = ""
) -> tuple[MaskedAutoencoder, PretrainingModelOptions]:
    """Returns the model in a full checkpoint and the options it was trained with.

    A published file says nothing of its options: the paper's hold then, and ConvMAE's or MAE's mask by its names.
    ``norm_pix_loss`` and ``method`` override what is known. Raises UserError if the file has no decoder of pixels.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    known = yaml.safe_load(read_config(path)) or {}
    names = {field.name for field in fields(PretrainingModelOptions)}
    config = PretrainingConfig(
        model=PretrainingModelOptions(**{k: v for k, v in known.get("model", {}).items() if k in names}),
        targets=[Target(**target) for target in known.get("targets", [{}])],
    )
    options = config.model
    if "model" not in known:
        options.method = "mae" if family_of(path) == "vit" else "convmae"
        options.size = "of its shapes"
    options.method = method or options.method
    given: dict[str, Any] = {"norm_pix_loss": config.norm_pix_loss if norm_pix_loss is None else norm_pix_loss}
    if options.method == "fastconvmae":
        given["groups"] = options.groups
    model = METHODS[options.method].from_checkpoint(path, **given)
    lacking = [name for name in model.load_report.missing if name.startswith(("decoder_", "mask_token"))]
    if lacking:
        raise UserError(
            f"{path} holds no decoder of pixels ({lacking[0]} is missing), so it can't reconstruct; give the full checkpoint "
            "(pretrained.pth, not encoder.pth) of a run with pixels among its targets."
        )
    if "model" not in known:
        options.img_size = 16 * model.grid_size[0]
    return model.eval(), options
