"""What `check_data` found, on the terminal and as a report page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convmae.detection.check import spread
from convmae.detection.coco import CocoData
from convmae.detection.data_check import SplitCheck
from convmae.detection.entries import Effect, Fault
from convmae.detection.pictures import draw
from convmae.detection.records import ImageRecord
from convmae.engine.plots import LINE_COLOURS, axes
from convmae.engine.report import Number, Page, Picture, write_metrics

SAMPLES = 6  # pictures of a split that are drawn, and as many of those at fault
LISTED = 500  # faults on the page; the JSON file has all
EXAMPLES = 3  # faults of a kind on the terminal
SMALL, MEDIUM = 32.0**2, 96.0**2  # pixels of COCO's small and medium objects
MODES = {"L": "grey", "1": "black and white", "P": "palette", "I;16": "16 bit grey", "RGBA": "RGB with transparency"}


def stopping(splits: Sequence[SplitCheck]) -> list[Fault]:
    """Returns the faults that training would refuse."""
    return [fault for split in splits for fault in split.faults if fault.effect is Effect.STOPS]


def summary(splits: Sequence[SplitCheck]) -> list[str]:
    """Returns the lines for the terminal: each split, its kinds of faults, and the first faults of each kind."""
    lines = []
    for split in splits:
        described = "" if split.data is None else f"{split.data.describe()} "
        lines.append(f"{split.name} data: {described}({split.annotations})")
        if split.data is not None:
            looked = ", ".join(f"{count} {MODES.get(mode, mode)}" for mode, count in split.modes.most_common())
            lines.append(f"  {len(split.good)} pictures looked at and in order" + (f": {looked}" if looked else ""))
        for kind, faults in _by_kind(split.faults).items():
            lines.append(f"  {len(faults)} {kind} ({faults[0].effect.value})")
            lines += [f"    {fault}" for fault in faults[:EXAMPLES]]
            lines += [f"    and {len(faults) - EXAMPLES} more"] * (len(faults) > EXAMPLES)
    count = len(stopping(splits))
    lines.append(f"{count} fault{'s' * (count != 1)} would stop training" if count else "nothing would stop training")
    return lines


def write_data_report(splits: Sequence[SplitCheck], work_dir: Path) -> list[Path]:
    """Writes ``metrics.json``, with every fault, and ``report/index.html``; returns the paths."""
    page = Page("Data check", ", ".join(str(split.annotations) for split in splits))
    known = {split.name: split.data for split in splits if split.data is not None}
    notes = sum(len(split.faults) for split in splits) - len(stopping(splits))
    page.headline(
        [
            Number("faults", f"{len(stopping(splits)):,}", "that would stop training"),
            Number("other remarks", f"{notes:,}", "objects left out, and what is used as it is"),
            *(Number(f"{name} pictures", f"{len(data.images):,}", _object_count(data)) for name, data in known.items()),
        ]
    )
    _add_faults(page, splits)
    if known:
        page.table("Splits", ["", *known], _split_rows(known, splits), sortable=False)
        page.table(
            "Classes", *_class_table(known), "Objects without crowds. A dash: the split does not list the class."
        )
        _add_figures(page, known)
    for split in splits:
        _add_samples(page, split)
    metrics_path, page_path = work_dir / "metrics.json", work_dir / "report" / "index.html"
    write_metrics(metrics_path, {split.name: _numbers(split) for split in splits})
    page.write(page_path)
    return [metrics_path, page_path]


def _add_faults(page: Page, splits: Sequence[SplitCheck]) -> None:
    kinds = [
        [kind, split.name, len(faults), faults[0].effect.value]
        for split in splits
        for kind, faults in _by_kind(split.faults).items()
    ]
    if not kinds:
        page.text("Faults", "None was found.")
        return
    page.table("Faults", ["kind", "split", "count", "effect"], kinds)
    listed = [
        [kind, split.name, str(fault)]
        for split in splits
        for kind, faults in _by_kind(split.faults).items()
        for fault in faults
    ]
    shown = f"{min(len(listed), LISTED):,} of {len(listed):,}; metrics.json beside the report lists all."
    page.table("Each fault", ["kind", "split", "what was found"], listed[:LISTED], shown)


def _split_rows(known: dict[str, CocoData], splits: Sequence[SplitCheck]) -> list[list[str | float | None]]:
    columns = []
    for split in splits:
        data = known.get(split.name)
        if data is None:
            continue
        packed = data.packed.columns
        single = ~packed["crowd"]
        sizes = _sizes(data)
        area, long = packed["area"][single], sizes.max(axis=1, initial=0)
        columns.append(
            {
                "pictures": f"{len(data.images):,}",
                "without objects": f"{len(data.images) - len(data.with_objects()):,}",
                "looked at and in order": f"{len(split.good):,}",
                "turned by EXIF data": f"{sum(fault.kind == 'pictures turned by EXIF data' for fault in split.faults):,}",
                "modes": ", ".join(f"{MODES.get(mode, mode)} {n:,}" for mode, n in split.modes.most_common()) or "–",
                "long side, px": _quantiles(long),
                "objects": f"{single.sum():,}",
                "crowds": f"{packed['crowd'].sum():,}",
                "objects a picture": _quantiles(np.array([data.packed.learnable(image) for image in data.images])),
                "side of objects (root of area), px": _quantiles(np.sqrt(area)),
                "small, to 32 x 32 px": _share(area < SMALL),
                "medium, to 96 x 96 px": _share((area >= SMALL) & (area < MEDIUM)),
                "large": _share(area >= MEDIUM),
            }
        )
    return [[name, *(column[name] for column in columns)] for name in columns[0]]


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
    page.figure("Sizes of objects", _histogram(sides, "root of an object's area, px"), "Share of the split's objects.")
    long = {name: _sizes(data).max(axis=1, initial=1) for name, data in known.items()}
    page.figure("Sizes of pictures", _histogram(long, "long side, px"), "Share of the split's pictures.")


def _add_samples(page: Page, split: SplitCheck) -> None:
    data = split.data
    if data is None:
        return
    remarks: dict[int, list[str]] = {}
    for fault in split.faults:
        if fault.image is not None:
            remarks.setdefault(fault.image.id, []).append(fault.kind)
    samples = [image for image in split.good if data.packed.learnable(image)]
    at_fault = [image for image in split.good if image.id in remarks]
    for title, images in ((f"Samples, {split.name}", samples), (f"Pictures with remarks, {split.name}", at_fault)):
        chosen = spread(images, SAMPLES)
        if chosen:
            page.pictures(
                title,
                [Picture(draw(data, image, {}), _caption(image, remarks.get(image.id, []))) for image in chosen],
                f"{len(chosen)} of {len(images):,}, spread evenly. Objects that are left out are not drawn.",
                columns=2,
            )


def _caption(image: ImageRecord, remarks: Sequence[str]) -> str:
    what = f": {', '.join(dict.fromkeys(remarks))}" if remarks else ""
    return f"{image.file_name} (image {image.id}, {image.width} x {image.height}){what}"


def _by_kind(faults: Sequence[Fault]) -> dict[str, list[Fault]]:
    """Returns the faults by kind, those that stop training first."""
    kinds: dict[str, list[Fault]] = {}
    for fault in sorted(faults, key=lambda fault: list(Effect).index(fault.effect)):
        kinds.setdefault(fault.kind, []).append(fault)
    return kinds


def _numbers(split: SplitCheck) -> dict[str, Any]:
    data = split.data
    counts = (
        {}
        if data is None
        else {
            "pictures": len(data.images),
            "pictures_with_objects": len(data.with_objects()),
            "classes": {category.name: n for category, n in zip(data.categories, data.class_counts(), strict=True)},
        }
    )
    return {
        "annotations": str(split.annotations),
        **counts,
        "faults": [
            {
                "kind": fault.kind,
                "effect": fault.effect.value,
                "image": fault.image and fault.image.id,
                "message": str(fault),
            }
            for fault in split.faults
        ],
    }


def _object_count(data: CocoData) -> str:
    return f"{(~data.packed.columns['crowd']).sum():,} objects of {len(data.categories)} classes"


def _sizes(data: CocoData) -> NDArray[np.int64]:
    return np.array([[image.width, image.height] for image in data.images], np.int64).reshape(-1, 2)


def _quantiles(values: NDArray) -> str:
    if not len(values):
        return "–"
    low, middle, high = (f"{value:,.0f}" for value in np.quantile(values, (0, 0.5, 1)))
    return f"{low} to {high}, median {middle}"


def _share(chosen: NDArray[np.bool_]) -> str:
    return f"{chosen.sum():,} ({100 * chosen.mean():.0f} %)" if len(chosen) else "–"


def _histogram(values: dict[str, NDArray], xlabel: str) -> Figure:
    """Draws the share of values between powers of the root of two, one outline for each label."""
    figure, plot = axes()
    top = max((float(of_split.max(initial=1)) for of_split in values.values()), default=1.0)
    edges = 2 ** (np.arange(0, 2 * np.ceil(np.log2(top)) + 3) / 2 - 0.25)
    for color, (label, of_split) in zip(LINE_COLOURS, values.items(), strict=False):
        counts, _ = np.histogram(of_split, edges)
        plot.stairs(counts / max(1, counts.sum()), edges, color=color, label=label, linewidth=1.8)
    plot.set_xscale("log", base=2)
    plot.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    plot.set_xlabel(xlabel)
    plot.set_ylabel("share")
    plot.set_ylim(bottom=0)
    if len(values) > 1:
        plot.legend(frameon=False)
    return figure
