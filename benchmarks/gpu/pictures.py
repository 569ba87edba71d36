"""The battery's pictures: a few of the real data sets where they are given, else generated scenes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from convmae.benchmarks.gpu.battery import Setting
from convmae.engine.pictures.scenes import generate

FEW = 16  # pictures of each split


class Pictures(NamedTuple):
    """Roots in each layout; ``real`` names the data sets that hold photographs."""

    images: Path  # for pretraining
    classes: Path  # train/ and val/, a folder a class
    coco: Path  # train2017/ and val2017/ with annotations/
    ade20k: Path
    real: str


def find_pictures(setting: Setting) -> Pictures:
    """Returns the data below ``setting.data`` by its usual names; in place of what is absent, scenes."""
    usual = {"classes": ("imagenet_mini",), "coco": ("coco_mini",), "ade20k": ("camvid_mini", "ade20k_mini")}
    found: dict[str, Path] = {}
    for layout, names in usual.items():
        given = [setting.data / name for name in names if setting.data and (setting.data / name).is_dir()]
        found |= {layout: given[0]} if given else {}
    real = ", ".join(path.name for path in found.values()) or "generated scenes"
    if len(found) < len(usual):
        made = generate(setting.scratch / "scenes", train=FEW, val=FEW, size=96)
        found = {layout: found.get(layout, getattr(made, layout)) for layout in usual}
    images = found["classes"] / "train" if "imagenet" in real else found["coco"] / "train2017"
    return Pictures(images, found["classes"], found["coco"], found["ade20k"], real)


def few(setting: Setting) -> Pictures:
    """Returns links to a few pictures of each split."""
    found, root = find_pictures(setting), setting.scratch / "few"
    images, classes, coco, ade20k = (root / name for name in ("images", "classes", "coco", "ade20k"))
    if not root.is_dir():
        for path in _spread(found.images.rglob("*.jpg")):
            _link(path, images / path.name)
        for split in ("train", "val"):
            for folder in sorted(path for path in (found.classes / split).iterdir() if path.is_dir()):
                for path in _spread(folder.glob("*.jpg"), 2):
                    _link(path, classes / split / folder.name / path.name)
            _few_coco(found.coco, coco, f"{split}2017")
        for split in ("training", "validation"):
            for path in _spread((found.ade20k / "images" / split).glob("*.jpg")):
                _link(path, ade20k / "images" / split / path.name)
                label = Path("annotations", split, f"{path.stem}.png")
                _link(found.ade20k / label, ade20k / label)
        _link(found.ade20k / "classes.txt", ade20k / "classes.txt")
    return Pictures(images, classes, coco, ade20k, found.real)


def _few_coco(source: Path, target: Path, split: str) -> None:
    content = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
    content["images"] = content["images"][:FEW]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [found for found in content["annotations"] if found["image_id"] in kept]
    for image in content["images"]:
        _link(source / split / image["file_name"], target / split / image["file_name"])
    path = target / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _spread(paths: Iterable[Path], count: int = FEW) -> list[Path]:
    """So many of the paths, evenly over their order."""
    ordered = sorted(paths)
    return ordered[:: max(1, len(ordered) // count)][:count]


def _link(path: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path.resolve())
