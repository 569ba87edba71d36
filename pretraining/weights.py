"""Full pretraining checkpoints, ours and published ones, with what is known of how they were trained."""

from __future__ import annotations

from pathlib import Path

import yaml

from convmae.engine.errors import UserError
from convmae.engine.files import read_config
from convmae.pretraining.config import PretrainingModelOptions
from convmae.pretraining.convmae import ConvMAE


def load_pretrained(path: Path, norm_pix_loss: bool | None = None) -> tuple[ConvMAE, PretrainingModelOptions]:
    """Returns the model in a full checkpoint and the options it was trained with.

    A published file says nothing of its options: the paper's hold then. ``norm_pix_loss`` overrides what is known. Raises
    UserError if the file has no decoder.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    known = (yaml.safe_load(read_config(path)) or {}).get("model", {})
    options = PretrainingModelOptions(**known)
    if norm_pix_loss is not None:
        options.norm_pix_loss = norm_pix_loss
    model = ConvMAE.from_checkpoint(path, norm_pix_loss=options.norm_pix_loss)
    lacking = [name for name in model.load_report.missing if name.startswith(("decoder_", "mask_token"))]
    if lacking:
        raise UserError(
            f"{path} holds no decoder ({lacking[0]} is missing), so it can't reconstruct; give the full checkpoint "
            "(pretrained.pth, not encoder.pth)."
        )
    if not known:
        options.method, options.size = type(model).__name__.lower(), "of its shapes"
        options.img_size = 16 * model.grid_size[0]
    return model.eval(), options
