"""Full pretraining checkpoints, ours and published ones, with what is known of how they were trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from convmae.backbones import family_of
from convmae.engine.config import from_tree
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file, read_config
from convmae.engine.safe_yaml import parse_yaml
from convmae.pretraining import METHODS, MaskedAutoencoder
from convmae.pretraining.config import PretrainingConfig, PretrainingModelOptions
from convmae.pretraining.decoder import decoder_dims

_DECODER = ("decoder_", "mask_token")  # how the names of its weights begin


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a whole model without its decoder's."""
    return {name: value for name, value in state.items() if not name.startswith(_DECODER)}


def load_pretrained(
    path: Path, norm_pix_loss: bool | None = None, method: str = ""
) -> tuple[MaskedAutoencoder, PretrainingModelOptions]:
    """Returns the model in a full checkpoint and the options it was trained with.

    A published file says nothing of its options: the paper's hold then, and ConvMAE's or MAE's mask by its names.
    ``norm_pix_loss`` and ``method`` override what is known. Raises UserError if the file has no decoder of pixels.
    """
    check_is_file(path)
    tree = parse_yaml(read_config(path), str(path))
    of_model = tree.get("model") if isinstance(tree, dict) else None
    ours = isinstance(of_model, dict) and "method" in of_model  # and not another task's
    known = {part: tree[part] for part in ("model", "targets") if part in tree} if ours else {}
    try:
        config = from_tree(PretrainingConfig, known)
    except UserError as error:
        raise UserError(f"{path}: the options of its run are not of this version: {error}") from None
    options = config.model
    if "model" not in known:
        options.method = "mae" if family_of(path) == "vit" else "convmae"
        options.size = "of its shapes"
    options.method = method or options.method
    given: dict[str, Any] = {"norm_pix_loss": config.norm_pix_loss if norm_pix_loss is None else norm_pix_loss}
    if options.method == "fastconvmae":
        given["groups"] = options.groups
    if "model" in known:  # no weight tells the heads
        dims = (options.decoder_dim, options.decoder_depth, options.decoder_heads)
        given["decoder_heads"] = decoder_dims(options.size, *dims).heads
    model = METHODS[options.method].from_checkpoint(path, **given)
    lacking = [name for name in model.load_report.missing if name.startswith(_DECODER)]
    if lacking:
        raise UserError(
            f"{path} holds no decoder of pixels ({lacking[0]} is missing), so it can't reconstruct; give the full checkpoint "
            "(pretrained.pth, not encoder.pth) of a run with pixels among its targets."
        )
    if "model" not in known:
        options.img_size = 16 * model.grid_size[0]
    return model.eval(), options
