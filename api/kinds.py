"""Which task's model a weight file holds, by the names in it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from convmae.backbones.weights.safe_files import read_file
from convmae.backbones.weights.weight_files import find_weights, read_weights, split_choice
from convmae.engine.errors import UserError

DETECTION, SEGMENTATION, CLASSIFICATION = KINDS = ("detection", "segmentation", "classification")
_HEADS = {  # of mmdet's and detectron2's layouts, too, for which a task's own reader has a better word
    DETECTION: r"\b(roi_heads?|proposal_generator|bbox_head|rpn_head)\.",
    SEGMENTATION: r"\bdecode_head\.",
    CLASSIFICATION: r"(^|\.)head\.(weight|bias)$",
}


def kind_of(path: str | os.PathLike[str], expected: str | None = None) -> str:
    """Returns "detection", "segmentation" or "classification".

    Raises UserError for weights of none of these, or of another kind than ``expected``; CheckpointError for no file of weights.
    """
    names = _names(path)
    found = _kind(names)
    if found is None:
        whole = any(re.search(r"(^|\.)(mask_token|decoder_)", name) for name in names)
        what = "a pretrained encoder with its decoder" if whole else "an encoder alone"
        what = what if any("patch_embed" in name for name in names) else "none of this project's models"
        raise UserError(
            f"{path} holds {what}; expected a classifier, a detector or a segmenter, such as model.pth of a run that trained "
            "one (finetune, train_det, train_seg; model.init starts it from an encoder)."
        )
    if expected is not None and found != expected:
        raise UserError(f"{path} holds a model of {found}; expected one of {expected}.")
    return found


def found_kind(path: str | os.PathLike[str]) -> str | None:
    """Returns the kind as ``kind_of`` does, None for weights of none. Raises CheckpointError for no file of weights."""
    return _kind(_names(path))


def _kind(names: Sequence[str]) -> str | None:
    return next((kind for kind, head in _HEADS.items() if any(re.search(head, name) for name in names)), None)


def _names(path: str | os.PathLike[str]) -> list[str]:
    """Returns the names of a file's weights, without reading these where that can be."""
    file, key = split_choice(os.fspath(path))
    if file.suffix == ".safetensors":
        return list(read_weights(os.fspath(path))[0])
    return list(find_weights(read_file(file, values=False, sums=False), str(file), key)[0])
