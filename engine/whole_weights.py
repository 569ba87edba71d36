"""Whether loaded weights make a whole model."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.logging import print_log

from convmae.backbones import load_checkpoint
from convmae.backbones.encoder import FREEZABLE, Encoder
from convmae.backbones.weights.load_report import LoadReport
from convmae.engine.errors import UserError

# What a task adds to a pretrained encoder: a head, positions of its attention, scales of its branches, another level.
_ADDED = re.compile(r"(fc_norm|head|fpn)\.|.*(relative_position_bias_table|rel_pos_[hw]|gamma_[12])$")

# What pretraining has besides the encoder, which nothing else has a place for.
_PRETRAINING = re.compile(
    r"(?:.*\.)?(?:norm\.(?:weight|bias)|mask_token|decoder_\w+(?:\..*)?|stage[12]_output_decode\..*)$"
)


def check_finite(state: Mapping[str, torch.Tensor], what: str, advice: str) -> None:
    """Raises UserError where values of a state dict aren't finite: ``what`` is wrong, the first name, and ``advice``."""
    values = {
        name: value if value.element_size() > 1 else value.float()  # PyTorch can't ask it of floats of one byte
        for name, value in state.items()
        if value.is_floating_point()
    }
    if not values:
        return
    finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()  # one wait for a GPU
    bad = [name for name, good in zip(values, finite, strict=True) if not good]
    if bad:
        more = f" ({len(bad)} such tensors)" if len(bad) > 1 else ""
        raise UserError(f"{what}: {bad[0]} holds values that are not finite{more}. {advice}")


def check_filled(report: LoadReport, path: Path, classes: int, classifier: str, optional: tuple[str, ...] = ()) -> None:
    """Raises UserError unless a file filled all that prediction needs.

    ``classifier``: how the names of the layer that depends on the number of classes begin; ``optional``: how names begin that
    only training needs.
    """
    missing = [
        name for name in report.missing if not name.endswith("num_batches_tracked") and not name.startswith(optional)
    ]
    # A bias has the classes as its only dimension; a weight may be missing for its width alone.
    unfit = next((name for name in missing if name.startswith(classifier) and name.endswith("bias")), None)
    if unfit is not None:
        raise UserError(
            f"{path}: its classifier does not fit the {classes} classes of the data ({unfit}: "
            f"{report.notes.get(unfit, 'absent')}); expected weights trained on these classes."
        )
    if missing:
        named = [f"{name}: {report.notes[name]}" if name in report.notes else name for name in missing[:3]]
        raise UserError(
            f"{path} leaves {len(missing)} of the model's tensors unfilled ({'; '.join(named)}, ...); expected a whole "
            "model of these options. Give the config.yaml of its run by --config."
        )


def check_freeze(freeze: str, init: str) -> None:
    """Raises UserError where an encoder would be frozen that no weights fill."""
    if freeze != "none" and not init:
        raise UserError(
            f"model.freeze is {freeze} and model.init empty, so that random weights would stay as they are; expected "
            "pretrained weights by model.init, or model.freeze=none."
        )


def tell_start(report: LoadReport, prefix: str = "") -> str:
    """Returns what became of weights that a run starts from; names that are to be so are counted, not listed.

    These are the task's own in the model, whose encoder's names begin with ``prefix``, and pretraining's own in the file.
    """
    added = [name for name in report.missing if _ADDED.match(name, len(prefix)) and name not in report.notes]
    spare = [name for name in report.unexpected if _PRETRAINING.match(name) and name not in report.notes]
    shown = replace(report, missing=_less(report.missing, added), unexpected=_less(report.unexpected, spare))
    lines = [str(shown)]
    if added:
        lines.append(f"  {len(added)} are what this task adds to an encoder, and start anew")
    if spare:
        lines.append(f"  {len(spare)} of the file are for pretraining alone")
    return "\n".join(lines)


def _less(names: list[str], known: list[str]) -> list[str]:
    return [name for name in names if name not in set(known)]


def check_encoder(report: LoadReport, path: str, prefix: str = "") -> None:
    """Raises UserError unless a file filled all of an encoder but what tasks add to it; names of it begin with ``prefix``."""
    names = [name for name in report.missing if name.startswith(prefix)]
    lacking = [name for name in names if not _ADDED.match(name, len(prefix))]
    if lacking:
        raise UserError(
            f"{path} leaves {len(lacking)} of the encoder's tensors unfilled ({lacking[0]}: "
            f"{report.notes.get(lacking[0], 'absent')}); expected pretrained weights of this kind and size."
        )


def start_backbone(model: Encoder, init: str, freeze: str = "none", logger: logging.Logger | str = "current") -> None:
    """Fills an encoder in another framework's config from pretrained weights, and freezes it or its stem as asked for.

    What became of each name goes to ``logger``, "current" for mmengine's; for "" nothing is filled. Raises UserError for a
    file that leaves some of the encoder unfilled, for freezing without weights, and for another word than `FREEZABLE` has.
    """
    if freeze not in FREEZABLE:
        raise UserError(f"freeze of the backbone is {freeze!r}; expected {', '.join(FREEZABLE)}.")
    if freeze != "none" and not init:
        raise UserError(
            f"freeze of the backbone is {freeze} and its init empty, so that random weights would stay as they are; expected "
            "pretrained weights by init, or freeze='none'."
        )
    if init:
        report = load_checkpoint(model, init)
        print_log(tell_start(report), logger=logger, level=logging.INFO)
        check_encoder(report, init)
    model.freeze(freeze)
