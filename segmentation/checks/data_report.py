"""The report page of what `check_data` found in pictures with label maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmae.engine.pictures.picture_check import describe_range
from convmae.reports.data_report import (
    add_sizes,
    add_splits,
    describe_modes,
    fault_rows,
    remarked,
    samples,
    write_page,
)
from convmae.reports.page import Number, Page, Share
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.found import Found
from convmae.segmentation.evaluation.drawn_pairs import Shown, add_pictures


def write_data_report(
    splits: Sequence[Found], classes: Sequence[str], options: SegmentationDataOptions, work_dir: Path
) -> list[Path]:
    """Writes ``metrics.json``, with every fault, and ``report/index.html``; returns the paths."""
    counts = [
        Number(
            f"{split.name.capitalize()} pictures",
            f"{len(split.pairs):,}",
            f"{(split.pixels > 0).sum()} of {len(classes)} classes",
        )
        for split in splits
    ]

    def add(page: Page) -> None:
        add_splits(page, {split.name: _facts(split) for split in splits})
        page.table("Classes", *_class_table(splits, classes), "Pixels as a share of all labelled ones of the split.")
        add_sizes(page, {split.name: _long_sides(split) for split in splits if split.sizes})
        for split in splits:
            _add_samples(page, split, classes, options)

    numbers = {split.name: _numbers(split, classes) for split in splits}
    return write_page(options.root, splits, counts, add, numbers, work_dir)


def _facts(split: Found) -> dict[str, str]:
    return {
        "folder of pictures": str(split.images),
        "folder of label maps": str(split.labels),
        "pictures with label maps": f"{len(split.pairs):,}",
        "looked at and in order": f"{len(split.good):,}",
        "decoded": f"{split.decoded:,}",
        "turned by EXIF data": _count(split, "pictures turned by EXIF data"),
        "modes": describe_modes(split.modes) or "–",
        "modes of label maps": describe_modes(split.label_modes) or "–",
        "long side, px": describe_range(_long_sides(split)),
        "short side, px": describe_range(np.array([min(size) for size in split.sizes])),
        "labelled pixels": f"{split.pixels.sum():,}",
        "ignored pixels": f"{split.ignored:,} ({100 * split.ignored_share():.1f} %)",
        "label maps that are all ignored": _count(split, "label maps that are all ignored"),
        "classes that occur": f"{(split.pixels > 0).sum()} of {len(split.pixels)}",
    }


def _count(split: Found, kind: str) -> str:
    return f"{sum(fault.kind == kind for fault in split.faults):,}"


def _class_table(splits: Sequence[Found], classes: Sequence[str]) -> tuple[list[str], list[list[str | float | None]]]:
    head = ["class", *(f"{split.name} {what}" for split in splits for what in ("pixels", "pictures"))]
    columns = [
        column
        for split in splits
        for column in (map(Share, split.pixels / max(int(split.pixels.sum()), 1)), split.pictures.tolist())
    ]
    return head, [[name, *values] for name, *values in zip(classes, *columns, strict=True)]


def _long_sides(split: Found) -> NDArray[np.int64]:
    return np.array([max(size) for size in split.sizes], np.int64)


def _add_samples(page: Page, split: Found, classes: Sequence[str], options: SegmentationDataOptions) -> None:
    remarks = remarked(split)
    in_order = [pair for pair in split.good if pair not in remarks]
    at_fault = [pair for pair in split.good if pair in remarks]
    for title, chosen, share in samples(split.name, in_order, at_fault):
        shown = [Shown(pair, ", ".join(remarks.get(pair, [])), {}) for pair in chosen]
        caption = f"{share} Pixels that are ignored are grey."
        add_pictures(page, title, shown, classes, options, caption, channels=split.reading.channels)


def _numbers(split: Found, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "images": str(split.images),
        "labels": str(split.labels),
        "pictures": len(split.pairs),
        "ignored_pixels": split.ignored,
        "classes": {
            name: {"pixels": pixels, "pictures": pictures}
            for name, pixels, pictures in zip(classes, split.pixels, split.pictures, strict=True)
        },
        "faults": fault_rows(split, lambda pair: str(pair.image)),
    }
