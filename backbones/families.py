"""The two kinds of encoder, and which of them a weight file holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convmae.backbones.convvit import SIZES, ConvViT, Dims
from convmae.backbones.encoder import Classifier
from convmae.backbones.vit import VIT_SIZES, ViT, ViTDims
from convmae.backbones.weights.shapes import encoder_part
from convmae.backbones.weights.weight_files import CheckpointError, read_weights

FAMILIES: dict[str, type[Classifier]] = {"convvit": ConvViT, "vit": ViT}


def family_of(path: str | Path) -> str:
    """Returns the name in `FAMILIES` of a weight file's encoder: "vit" by a plain ViT's patch embedding, else "convvit".

    Raises:
        CheckpointError: a file that can't be read.
    """
    return "vit" if _is_plain(read_weights(path)[0]) else "convvit"


def load_encoder(path: str | Path, in_chans: int | None = None) -> Classifier:
    """Returns the whole encoder in a weight file, without a head, in evaluation mode; its `load_report` names every key.

    It takes pictures of the file's channels, or of `in_chans` where RGB's weights are to be inflated to these.

    Raises:
        CheckpointError: a file that can't be read, or whose encoder is not whole or computes something else.
    """
    options: dict[str, Any] = {} if in_chans is None else {"in_chans": in_chans}
    encoder = FAMILIES[family_of(path)].from_checkpoint(path, num_classes=0, **options)
    report = encoder.load_report
    biased = [name for name in report.unexpected if name.endswith("relative_position_bias_table")]
    if biased:
        raise CheckpointError(
            f"{path} holds an encoder with position biases ({biased[0]}), as detectors and segmenters have; expected weights "
            "of pretraining or classification"
        )
    lacking = [name for name in report.missing if not name.startswith("fc_norm.")]
    if lacking:
        reason = report.notes.get(lacking[0], "absent")
        raise CheckpointError(
            f"{path} holds no whole {type(encoder).__name__}: {len(lacking)} of its tensors are missing, {lacking[0]} first "
            f"({reason})"
        )
    return encoder.eval()


def named_size(path: str | Path) -> tuple[str, str]:
    """Returns family and size of a weight file's encoder as options name them; "" for the size where it has another's dims.

    Raises:
        CheckpointError: a file that can't be read, or holds no encoder.
    """
    state, source = read_weights(path)
    family = "vit" if _is_plain(state) else "convvit"
    kind = FAMILIES[family]
    found = kind.dims_from_state_dict(encoder_part(state, source, kind.first_weight))
    dims, sizes = (ViTDims.of(found), VIT_SIZES) if family == "vit" else (Dims.of(found), SIZES)
    return family, next((name for name, one in sizes.items() if one == dims), "")


def _is_plain(names: Iterable[str]) -> bool:
    """Whether weights of these names are a plain ViT's."""
    return any(name == ViT.first_weight or name.endswith(f".{ViT.first_weight}") for name in names)
