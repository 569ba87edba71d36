"""What a COCO file says beyond COCO's own keys, and what is not gone by: it changes what boxes and numbers mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convmae.engine.faults import Effect, Fault, Report

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
_LEFT_TO_OTHERS = ("ignore", "difficult")  # of mmdetection's and Pascal VOC's converters


def check_unread(content: dict[str, list[Any]], path: Path, report: Report) -> None:
    """Reports objects that are marked as to be ignored, or turned, and pictures that are not labelled for all classes."""
    annotations = [entry for entry in content["annotations"] if isinstance(entry, dict)]
    for key in _LEFT_TO_OTHERS:
        marked = [entry for entry in annotations if entry.get(key) in (1, True)]
        if marked:
            message = (
                f"{path}: {_share(marked, annotations)} have {key}=1; it is not gone by: they are learnt and measured as "
                "others. Set iscrowd to 1 to leave them out of both."
            )
            report(Fault("files with objects to be ignored", message, Effect.DOUBTFUL))
    turned = [entry for entry in annotations if _turned(entry)]
    if turned:
        message = (
            f"{path}: {_share(turned, annotations)} have a 'rotation', which is not gone by: their boxes are taken as they are "
            "before they are turned, off their objects. Export the upright boxes around them."
        )
        report(Fault("files with turned boxes", message, Effect.DOUBTFUL))
    images = [entry for entry in content["images"] if isinstance(entry, dict)]
    partly = [entry for entry in images if any(entry.get(key) for key in _FEDERATED)]
    if partly:
        message = (
            f"{path}: {len(partly)} of {len(images)} pictures have {' or '.join(_FEDERATED)}, as LVIS has: they are "
            "labelled for some classes alone. COCO's numbers count what is found of the others as false; they are not LVIS's."
        )
        report(Fault("files that are labelled for some classes alone", message, Effect.DOUBTFUL))


def _share(some: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> str:
    return f"{len(some)} of {len(annotations)} objects (the first is annotation {some[0].get('id')})"


def _turned(entry: dict[str, Any]) -> bool:
    """Whether an object has the rotation in degrees that CVAT writes, other than by half turns."""
    attributes = entry.get("attributes")
    angle = attributes.get("rotation") if isinstance(attributes, dict) else None
    return isinstance(angle, (int, float)) and 1 < angle % 180 < 179
