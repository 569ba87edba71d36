"""The JSON file of COCO-format data; what is none is refused by what it looks like."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convmae.engine.errors import UserError
from convmae.engine.regular_files import check_regular

PARTS = ("images", "annotations", "categories")
_READ = {  # keys of the file, its entries and their masks, of which each must stand once
    *PARTS, "id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "file_name", "width", "height", "name",
    "counts", "size",
}  # fmt: skip
PREDICT = "tools/predict.py det WEIGHTS FOLDER --annotations FILE"
_BEGINNINGS = {  # of files that are no JSON
    rb"\s*\Z": "It is empty.",
    rb"version https://git-lfs": "It is a pointer of Git LFS: fetch the file itself by git lfs pull.",
    rb"\x1f\x8b|PK\x03\x04": "It is compressed: unpack it.",
    rb"\s*<(!doctype html|html)": "It is a web page, not the file behind it: download it anew.",
    rb"\s*<": "It looks like XML, as Pascal VOC's: convert it to COCO.",
    rb"\s*\d+( -?[\d.]+){4,}\s*[\r\n]": "It looks like YOLO's labels: convert them to COCO.",
    rb"(names|nc|train|val|path) *:": "It looks like YOLO's list of classes: convert the data to COCO.",
    rb"\s*\{.*\}\s*\n\s*\{": "It looks like JSON lines, an object in each: convert it to COCO.",
    rb"[^\n{\[]+(,[^\n{\[]+){3}": "It looks like a table (CSV): convert it to COCO.",
}
_KEYS = {  # of the file's object, or of the first in its list
    ("shapes", "imagePath"): "labelme's format of one picture",
    ("_via_img_metadata",): "the project file of the VGG Image Annotator",
    ("regions", "filename"): "the format of the VGG Image Annotator",
    ("annotations", "data"): "Label Studio's own format",
    ("image", "annotations"): "CreateML's format",
    ("data_row",): "Labelbox's format",
    ("name", "labels"): "BDD100K's format",
    ("size", "objects"): "Supervisely's format of one picture",
    ("type", "features"): "GeoJSON",
    ("segments_info",): "COCO's panoptic format (the instances_*.json have the objects)",
    ("caption",): "COCO's captions (the instances_*.json have the objects)",
    ("image_id", "score"): "COCO's result rows, which are detections",
}


def read_json(path: Path, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """Returns the object of a COCO JSON file, which has the lists ``parts``. Raises UserError for anything else."""
    try:
        check_regular(path)
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no annotation file {path}; expected a COCO JSON file (instances_*.json).") from None
    except OSError as error:
        raise UserError(f"The annotation file {path} can't be read: {error.strerror}.") from None
    twice: list[tuple[dict[str, Any], str]] = []
    try:
        content = json.loads(raw, object_pairs_hook=lambda pairs: _last(pairs, twice))
    except (ValueError, RecursionError) as error:
        likely = _no_json(raw[:10_000], error)
        raise UserError(f"{path} is not JSON ({error}); expected a COCO annotation file.{likely}") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a JSON {type(content).__name__}; expected COCO's object with {', '.join(parts)}."
            f"{_other_format(content)}"
        )
    _refuse_twice(content, twice, path)
    for part in parts:
        if not isinstance(content.get(part), list):
            found = ", ".join(list(map(str, content))[:8]) or "nothing"
            raise UserError(
                f"{path} is not COCO: it has no list {part!r} (found: {found}); expected {', '.join(parts)}."
                f"{_unlabelled(content) if part == 'annotations' else _other_format(content)}"
            )
    first = next(iter(content["annotations"] if "annotations" in parts else []), None)
    if isinstance(first, dict) and "bbox" not in first and (likely := _other_format(first)):
        raise UserError(f"{path} has no objects that a detector can learn.{likely}")
    empty = next((part for part in parts if part != "annotations" and not content[part]), None)
    if empty:
        raise UserError(f"{path}: the list {empty!r} is empty; expected at least one.")
    return content


def _last(pairs: list[tuple[str, Any]], twice: list[tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """Returns an object with the last value of each key; adds it to ``twice`` with a read key that has two values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        first: dict[str, Any] = {}
        for key, value in pairs:
            if key in _READ and first.setdefault(key, value) != value:
                twice.append((found, key))
                break
    return found


def _refuse_twice(content: dict[str, Any], twice: list[tuple[dict[str, Any], str]], path: Path) -> None:
    """Raises UserError where a key stands twice in the file's object, an entry or its mask; others' objects are not read."""
    if not twice:
        return
    lists = [found for part in PARTS if isinstance(found := content.get(part), list)]
    entries = [entry for found in lists for entry in found if isinstance(entry, dict)]
    read = {id(one) for one in (content, *entries, *(entry.get("segmentation") for entry in entries))}
    for found, key in twice:
        if id(found) in read:
            of = f" of the object with id {found['id']!r:.40}" if "id" in found and key != "id" else ""
            raise UserError(f"{path}: the key {key!r}{of} stands twice with different values; expected each key once.")


def _no_json(raw: bytes, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError) and not raw.startswith((b"\x1f\x8b", b"PK")):
        return " Save it as UTF-8."
    return next((f" {text}" for start, text in _BEGINNINGS.items() if re.match(start, raw, re.IGNORECASE)), "")


def _other_format(content: Any) -> str:
    """Returns a sentence on the format that an object, or the first of a list or of an object's values, seems to be of."""
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    first = next(iter(values), None)
    for keys, name in _KEYS.items():
        if any(isinstance(one, dict) and all(key in one for key in keys) for one in (content, first)):
            return f" It looks like {name}."
    return ""


def _unlabelled(content: dict[str, Any]) -> str:
    if not content.get("images"):
        return _other_format(content)
    return (
        " It lists pictures alone, as those of COCO's test sets do: nothing can be learnt or measured. For detections with "
        f"their ids: {PREDICT}."
    )
