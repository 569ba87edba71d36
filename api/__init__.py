"""ConvMAE in Python: models that predict, and runs that train them.

Names are read where they are first used, so that ``import convmae`` takes no time, and no part loads another's libraries.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers read it; typing's own would take longer than all else here
if TYPE_CHECKING:
    from typing import Any

    from convmae.engine.errors import UserError
    from convmae.models import Classifier, Detector, Segmenter, load
    from convmae.results import Classification, Detections, LabelMap
    from convmae.runs import Run, finetune, pretrain, train_det, train_seg

__all__ = [
    "Classification",
    "Classifier",
    "Detections",
    "Detector",
    "LabelMap",
    "Run",
    "Segmenter",
    "UserError",
    "finetune",
    "load",
    "pretrain",
    "train_det",
    "train_seg",
]

_PLACES = {
    "engine.errors": ("UserError",),
    "models": ("Classifier", "Detector", "Segmenter", "load"),
    "results": ("Classification", "Detections", "LabelMap"),
    "runs": ("Run", "finetune", "pretrain", "train_det", "train_seg"),
}


def __getattr__(name: str) -> Any:
    import importlib

    for place, names in _PLACES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{place}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
