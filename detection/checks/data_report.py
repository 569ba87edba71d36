"""The report page of what `check_data` found in COCO-format data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmae.detection.checks.data_check import SplitCheck
from convmae.detection.checks.perfect_detector import describe_scores
from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import ImageRecord
from convmae.detection.evaluation.rated_pictures import read_picture, truth_panel
from convmae.engine.pictures.picture_check import describe_range
from convmae.engine.text import distinct
from convmae.reports.data_report import (
    add_sizes,
    add_splits,
    describe_modes,
    fault_rows,
    remarked,
    samples,
    write_page,
)
from convmae.reports.page import Number, Page, Picture
from convmae.reports.plots import histogram

SMALL, MEDIUM = 32.0**2, 96.0**2  # pixels of COCO's small and medium objects


def write_data_report(splits: Sequence[SplitCheck], work_dir: Path) -> list[Path]:
    """Writes ``metrics.json``, with every fault, and ``report/index.html``; returns the paths."""
    subtitle = ", ".join(str(split.annotations) for split in splits)
    known = {split.name: split.data for split in splits if split.data is not None}
    counts = [
        Number(f"{name.capitalize()} pictures", f"{len(data.images):,}", _object_count(data))
        for name, data in known.items()
    ]
    numbers = {split.name: _numbers(split) for split in splits}
    return write_page(subtitle, splits, counts, lambda page: _add_data(page, splits, known), numbers, work_dir)


def _add_data(page: Page, splits: Sequence[SplitCheck], known: dict[str, CocoData]) -> None:
    if known:
        add_splits(page, {split.name: _facts(split, split.data) for split in splits if split.data is not None})
        page.table(
            "Classes", *_class_table(known), "Objects without crowds. A dash: the split does not list the class."
        )
        _add_figures(page, known)
    for split in splits:
        if split.data is not None:
            _add_samples(page, split, split.data)


def _facts(split: SplitCheck, data: CocoData) -> dict[str, str]:
    packed = data.packed.columns
    single = ~packed["crowd"]
    area = packed["area"][single]
    return {
        "pictures": f"{len(data.images):,}",
        "without objects": f"{len(data.images) - len(data.with_objects()):,}",
        "looked at and in order": f"{len(split.good):,}",
        "turned by EXIF data": f"{sum(fault.kind == 'pictures turned by EXIF data' for fault in split.faults):,}",
        "modes": describe_modes(split.modes) or "–",
        "long side, px": describe_range(data.sizes().max(axis=1, initial=0)),
        "objects": f"{single.sum():,}",
        "crowds": f"{packed['crowd'].sum():,}",
        "objects a picture": describe_range(np.array([data.packed.learnable(image) for image in data.images])),
        "side of objects (root of area), px": describe_range(np.sqrt(area)),
        "small, to 32 x 32 px": _share(area < SMALL),
        "medium, to 96 x 96 px": _share((area >= SMALL) & (area < MEDIUM)),
        "large": _share(area >= MEDIUM),
        "a perfect detector, by COCO's evaluation": describe_scores(split.perfect) or "–",
    }


def _class_table(known: dict[str, CocoData]) -> tuple[list[str], list[list[str | float | None]]]:
    counts = {name: dict(zip(data.categories, data.class_counts(), strict=True)) for name, data in known.items()}
    categories = sorted({category for of_split in counts.values() for category in of_split}, key=lambda one: one.id)
    rows: list[list[str | float | None]] = [
        [category.name, category.id, *(of_split.get(category) for of_split in counts.values())]
        for category in categories
    ]
    return ["class", "id", *(f"{name} objects" for name in counts)], rows


def _add_figures(page: Page, known: dict[str, CocoData]) -> None:
    sides = {
        name: np.sqrt(data.packed.columns["area"][~data.packed.columns["crowd"]].clip(min=1))
        for name, data in known.items()
    }
    page.figure("Sizes of objects", histogram(sides, "root of an object's area, px"), "Share of the split's objects.")
    add_sizes(page, {name: data.sizes().max(axis=1, initial=1) for name, data in known.items()})


def _add_samples(page: Page, split: SplitCheck, data: CocoData) -> None:
    remarks = remarked(split, lambda image: image.id)
    in_order = [image for image in split.good if data.packed.learnable(image)]
    at_fault = [image for image in split.good if image.id in remarks]
    for title, chosen, share in samples(split.name, in_order, at_fault):
        pictures = [
            Picture(
                [truth_panel(read_picture(data, image), data, image)],
                _caption(image, remarks.get(image.id, [])),
                data.path(image),
                image.file_name,
                sorted({one.label for one in data.objects.get(image.id, [])}),
            )
            for image in chosen
        ]
        classes = [category.name for category in data.categories]
        page.pictures(title, pictures, f"{share} Objects that are left out are not drawn.", classes=classes)


def _caption(image: ImageRecord, remarks: Sequence[str]) -> str:
    return f"(image {image.id}, {image.width} x {image.height}){': ' if remarks else ''}{', '.join(remarks)}"


def _numbers(split: SplitCheck) -> dict[str, Any]:
    data = split.data
    counts = (
        {}
        if data is None
        else {
            "pictures": len(data.images),
            "pictures_with_objects": len(data.with_objects()),
            "classes": dict(
                zip(distinct([category.name for category in data.categories]), data.class_counts(), strict=True)
            ),
            **({"perfect": split.perfect} if split.perfect else {}),
        }
    )
    return {
        "annotations": str(split.annotations),
        **counts,
        "faults": fault_rows(split, lambda image: image.id),
    }


def _object_count(data: CocoData) -> str:
    count = len(data.categories)
    return f"{(~data.packed.columns['crowd']).sum():,} objects of {count} class{'es' * (count != 1)}"


def _share(chosen: NDArray[np.bool_]) -> str:
    return f"{chosen.sum():,} ({100 * chosen.mean():.0f} %)" if len(chosen) else "–"
