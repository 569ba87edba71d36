"""The report page of what `check_data` found in plain pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmae.engine.pictures.images import as_rgb, read_image
from convmae.engine.pictures.picture_check import PictureCheck, describe_range
from convmae.engine.text import distinct
from convmae.reports.data_report import add_sizes, add_splits, describe_modes, fault_rows, samples, write_page
from convmae.reports.page import Number, Page, Picture

FREQUENT = 20  # sizes on the page; the JSON file has all


def write_data_report(splits: Sequence[PictureCheck], root: str, work_dir: Path) -> list[Path]:
    """Writes ``metrics.json``, with every fault, and ``report/index.html``; returns the paths."""
    counts = [
        Number(f"{one.name.capitalize()} pictures", f"{len(one.paths):,}", f"{len(one.good):,} in order")
        for one in splits
    ]
    numbers = {split.name: _numbers(split) for split in splits}
    return write_page(root, splits, counts, lambda page: _add_data(page, splits), numbers, work_dir)


def _add_data(page: Page, splits: Sequence[PictureCheck]) -> None:
    add_splits(page, {split.name: _facts(split) for split in splits})
    names = list(dict.fromkeys(name for split in splits for name in split.classes))
    if names:
        page.table(
            "Classes",
            ["class", *(f"{split.name} pictures" for split in splits)],
            [[name, *(split.classes.get(name) for split in splits)] for name in names],
            "A dash: the split has no such class.",
        )
    sized = [split for split in splits if split.sizes]
    add_sizes(page, {split.name: _sides(split, max) for split in sized})
    if sized:
        _add_frequent(page, sized)
    for split in splits:
        for title, chosen, share in samples(split.name, split.good):
            pictures = [Picture(as_rgb(read_image(path, split.reading)), path.name) for path in chosen]
            page.pictures(title, pictures, share)


def _facts(split: PictureCheck) -> dict[str, str]:
    return {
        "folder": str(split.folder),
        "pictures": f"{len(split.paths):,}",
        "read and in order": f"{len(split.good):,}",
        "modes": describe_modes(split.modes) or "–",
        "long side, px": describe_range(_sides(split, max)),
        "short side, px": describe_range(_sides(split, min)),
    }


def _sides(split: PictureCheck, side: Callable[[tuple[int, int]], int]) -> NDArray[np.int64]:
    return np.array([side(size) for size in split.sizes.elements()], np.int64)


def _add_frequent(page: Page, splits: Sequence[PictureCheck]) -> None:
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
