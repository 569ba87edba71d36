"""The two kinds of encoder, and which of them a weight file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convmae.backbones.convvit import ConvViT
from convmae.backbones.encoder import Classifier
from convmae.backbones.vit import ViT
from convmae.backbones.weights.weight_files import CheckpointError, read_weights

FAMILIES: dict[str, type[Classifier]] = {"convvit": ConvViT, "vit": ViT}


def family_of(path: str | Path) -> str:
    """Returns the name in `FAMILIES` of a weight file's encoder: "vit" by a plain ViT's patch embedding, else "convvit".

    Raises:
        CheckpointError: a file that can't be read.
    """
    names = read_weights(path)[0]
    plain = any(name == ViT.first_weight or name.endswith(f".{ViT.first_weight}") for name in names)
    return "vit" if plain else "convvit"


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
