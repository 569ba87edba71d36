"""What a masked model learns to predict: one list of targets describes ConvMAE, the Mixture of Reconstructors and MR-MCMAE.

| method | targets |
| --- | --- |
| MAE, ConvMAE, FastConvMAE on pixels | pixels on removed tokens, at the decoder |
| Mixture of Reconstructors | features of an EMA encoder, of DINO and of CLIP on removed tokens, at the decoder |
| MR-MCMAE (arXiv 2303.05475) | features of CLIP or DINO on visible tokens, at the encoder; pixels as above |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.pretraining.config import PIXELS, Target
from convmae.pretraining.patches import patch_statistics


def check_targets(targets: Sequence[Target]) -> None:
    """Raises ValueError for an empty list, a target given twice, or one that names tokens its place has none of."""
    if not targets:
        raise ValueError("targets is empty; expected at least one, such as {teacher: pixels}")
    names = [target.name for target in targets]
    for target in targets:
        if target.at == "encoder" and target.tokens == "removed":
            raise ValueError(
                f"the target {target.teacher!r} wants removed tokens at the encoder, which sees visible ones alone; set "
                "tokens: visible, or at: decoder"
            )
        if target.teacher == PIXELS and (target.tokens, target.at) != ("removed", "decoder"):
            raise ValueError(
                f"the target {PIXELS!r} wants {target.tokens} tokens at the {target.at}, whose input shows them; set tokens: "
                "removed and at: decoder"
            )
        if target.teacher == PIXELS and target.norm == "layer":
            raise ValueError(f"the target {PIXELS!r} has norm: layer, which is for features; set norm: patch or none")
        if names.count(target.name) > 1:
            raise ValueError(f"two targets are {target.teacher!r} on {target.tokens} tokens at the {target.at}")


def normalize(target: Target, values: Tensor) -> Tensor:
    """Returns a teacher's values [..., C] as they are to be predicted."""
    return NORMS[target.norm_used](values)


def distance(target: Target, pred: Tensor, values: Tensor) -> Tensor:
    """Returns the mean loss [] of predictions [n, C] against normalised values [n, C], computed in fp32 or more."""
    precision = torch.promote_types(pred.dtype, torch.float32)  # a half's square overflows
    return LOSSES[target.loss_used](pred.to(precision), values.to(precision))


def _patch(values: Tensor) -> Tensor:
    mean, deviation = patch_statistics(values)
    return (values - mean) / deviation


def _layer(values: Tensor) -> Tensor:
    return F.layer_norm(values.to(torch.promote_types(values.dtype, torch.float32)), values.shape[-1:])


def _smooth_l1(pred: Tensor, values: Tensor) -> Tensor:
    return F.smooth_l1_loss(pred, values, beta=2.0)


def _cosine(pred: Tensor, values: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(pred, values, dim=-1)).mean()


NORMS: dict[str, Callable[[Tensor], Tensor]] = {"patch": _patch, "layer": _layer, "none": lambda values: values}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "smooth_l1": _smooth_l1,
    "cosine": _cosine,
}
