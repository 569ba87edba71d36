"""The report page of what `check_data` found in plain pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convmae.engine.faults import spread
from convmae.engine.pictures.images import as_rgb, read_image
from convmae.engine.pictures.picture_check import PictureCheck, describe_range
from convmae.engine.text import distinct
from convmae.reports.data_report import (
    SAMPLES,
    add_faults,
    describe_modes,
    fault_numbers,
    fault_rows,
    histogram,
)
from convmae.reports.page import Number, Page, Picture, write_metrics

FREQUENT = 20  # sizes on the page; the JSON file has all


def write_data_report(splits: Sequence[PictureCheck], root: str, work_dir: Path) -> list[Path]:
    """Writes ``metrics.json``, with every fault, and ``report/index.html``; returns the paths."""
    page = Page("Data check", root)
    page.headline(
        [
            *fault_numbers(splits),
            *(Number(f"{one.name} pictures", f"{len(one.paths):,}", f"{len(one.good):,} in order") for one in splits),
        ]
    )
    add_faults(page, splits)
    page.table("Splits", ["", *(split.name for split in splits)], _split_rows(splits), sortable=False)
    names = list(dict.fromkeys(name for split in splits for name in split.classes))
    if names:
        page.table(
            "Classes",
            ["class", *(f"{split.name} pictures" for split in splits)],
            [[name, *(split.classes.get(name) for split in splits)] for name in names],
            "A dash: the split has no such class.",
        )
    _add_sizes(page, [split for split in splits if split.sizes])
    for split in splits:
        chosen = spread(split.good, SAMPLES)
        if chosen:
            pictures = [Picture(as_rgb(read_image(path, split.reading)), path.name) for path in chosen]
            page.pictures(f"Samples, {split.name}", pictures, f"{len(chosen)} of {len(split.good):,}, spread evenly.")
    metrics_path, page_path = work_dir / "metrics.json", work_dir / "report" / "index.html"
    write_metrics(metrics_path, {split.name: _numbers(split) for split in splits})
    page.write(page_path)
    return [metrics_path, page_path]


def _split_rows(splits: Sequence[PictureCheck]) -> list[list[str | float | None]]:
    columns = [
        {
            "folder": str(split.folder),
            "pictures": f"{len(split.paths):,}",
            "read and in order": f"{len(split.good):,}",
            "modes": describe_modes(split.modes) or "–",
            "long side, px": describe_range(np.array([max(size) for size in split.sizes.elements()])),
            "short side, px": describe_range(np.array([min(size) for size in split.sizes.elements()])),
        }
        for split in splits
    ]
    return [[name, *(column[name] for column in columns)] for name in columns[0]]


def _add_sizes(page: Page, splits: Sequence[PictureCheck]) -> None:
    if not splits:
        return
    sides = {split.name: np.array([max(size) for size in split.sizes.elements()]) for split in splits}
    page.figure("Sizes of pictures", histogram(sides, "long side, px"), "Share of the split's pictures.")
    total = sum((split.sizes for split in splits), start=splits[0].sizes.__class__())
    page.table(
        "Most frequent sizes",
        ["width x height, px", *(f"{split.name} pictures" for split in splits)],
        [
            [f"{size[0]} x {size[1]}", *(split.sizes[size] for split in splits)]
            for size, _ in total.most_common(FREQUENT)
        ],
        f"{min(FREQUENT, len(total)):,} of {len(total):,}.",
    )


def _numbers(split: PictureCheck) -> dict[str, Any]:
    classes = dict(zip(distinct(list(split.classes)), split.classes.values(), strict=True))
    return {
        "folder": str(split.folder),
        "pictures": len(split.paths),
        "in_order": len(split.good),
        "modes": dict(split.modes),
        "sizes": {f"{width}x{height}": count for (width, height), count in split.sizes.most_common()},
        **({"classes": classes} if classes else {}),
        "faults": fault_rows(split, str),
    }
