"""Report pages: one self-contained HTML file with numbers, tables, figures and pictures; and the files they rest on."""

from __future__ import annotations

import datetime
import json
import math
import numbers
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from convmae.engine.files import write_whole
from convmae.engine.text import BLANK, decimals, is_blank, visible
from convmae.reports.drawing import Colour, draw_boxes, draw_labels, pair, palette
from convmae.reports.gallery import Panel, Picture, Shape, encode, is_dense
from convmae.reports.plots import curves
from convmae.reports.svg import figure_block, with_own_ids
from convmae.reports.thresholds import Threshold

__all__ = [
    "Number",
    "Page",
    "Panel",
    "Picture",
    "Shape",
    "Share",
    "Threshold",
    "curves",
    "draw_boxes",
    "draw_labels",
    "environment",
    "pair",
    "palette",
    "write_metrics",
]

STYLES, SCRIPTS = ("page.css", "gallery.css"), ("page.js", "gallery.js", "tips.js")


@dataclass(frozen=True)
class Number:
    """One headline number: what it is, its value as it is to be read, and a remark."""

    label: str
    value: str
    note: str = ""


class Share(float):
    """A cell that is a part of a whole, and reads in percent."""


class Gain(Share):
    """A cell that is the difference of two shares: with its sign, and without a bar."""


class Page:
    """A report page, filled from top to bottom and then written: inline CSS and pictures, light and dark, no network."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._blocks: list[dict[str, Any]] = []

    @property
    def numbers(self) -> list[Number]:
        """The headline numbers so far."""
        return [number for block in self._blocks if block["kind"] == "headline" for number in block["content"]]

    def extend(self, other: Page) -> None:
        """Takes over all that stands on another page but its title."""
        self._blocks += other._blocks

    def part(self, title: str, introduction: str = "") -> None:
        """Opens a part: what follows belongs to it, until the next part opens."""
        self._add("part", title, introduction, None)

    def headline(self, numbers: Sequence[Number]) -> None:
        self._add("headline", "", "", list(numbers))

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str | float | None]],
        caption: str = "",
        sortable: bool = True,
    ) -> None:
        """Numbers stand to the right; a column of ``Share`` reads in percent and, but for one of ``Gain``, has bars.

        None and NaN read as a dash and sort last.
        """
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"table {title!r} has {len(columns)} columns and a row of {len(row)}: {row}")
        by_column = [[row[index] for row in rows] for index in range(len(columns))]
        shares = [_are_shares(values) for values in by_column]
        heads = [
            {
                "name": f"{name},\u00a0%" if share else name,
                "numeric": bool(values) and all(_is_number(one) for one in values),
            }
            for name, values, share in zip(columns, by_column, shares, strict=True)
        ]
        bars = [
            share and not any(isinstance(one, Gain) for one in values)
            for values, share in zip(by_column, shares, strict=True)
        ]
        cells = [
            [_cell(value, bool(head["numeric"]), bar) for value, head, bar in zip(row, heads, bars, strict=True)]
            for row in rows
        ]
        self._add("table", title, caption, cells, columns=heads, sortable=sortable and len(rows) > 1, bars=sum(bars))

    def figure(self, title: str, fig: Figure, caption: str = "") -> None:
        """A ``Chart`` tells its values under the pointer; one of lines is drawn once more for narrow windows."""
        self._add("figure", title, caption, **figure_block(fig))

    def validation(self, rows: Sequence[Mapping[str, float]], keys: Mapping[str, str], ylabel: str) -> None:
        """Adds the scores of a run's evaluations, ``{label: key}``, in percent over the step where there were several.

        A single evaluation's are in the headline, and as points on a chart they would say nothing.
        """
        shares = [{"step": row["step"], **{key: 100 * row[key] for key in keys.values() if key in row}} for row in rows]
        if sum(len(row) > 1 for row in shares) > 1:
            self.figure("Validation", curves(shares, keys, f"{ylabel}, %"))

    def pictures(
        self,
        title: str,
        pictures: Sequence[Picture],
        caption: str = "",
        columns: int = 3,
        legend: Sequence[tuple[str, Colour]] = (),
        classes: Sequence[str] = (),
        thresholds: Sequence[Threshold] = (),
        ranked: bool = False,
    ) -> None:
        """At most ``columns`` pictures stand in a row, fewer where the window is narrow, each opened large by a click.

        ``legend`` explains colours. A reader chooses among the ``classes`` that the pictures hold, the confidence by the slider
        of each of ``thresholds`` and, of pictures ``ranked`` from the worst to the best, the order.
        """
        held = sorted({label for picture in pictures for label in picture.classes})
        choice = [(label, classes[label]) for label in held] if len(classes) > 1 else []
        more: dict[str, Any] = {"legend": [(name, tuple(color)) for name, color in legend], "classes": choice}
        self._add(
            "pictures", title, caption, list(pictures), columns=columns, thresholds=thresholds, orders=ranked, **more
        )

    def facts(self, title: str, facts: Mapping[str, str]) -> None:
        self._add("facts", title, "", dict(facts))

    def text(self, title: str, paragraphs: str | Sequence[str]) -> None:
        self._add("text", title, "", [paragraphs] if isinstance(paragraphs, str) else list(paragraphs))

    def code(self, title: str, text: str) -> None:
        self._add("code", title, "", text)

    def write(self, path: Path) -> None:
        """Writes the page; a reader never meets half of it. Raises UserError where it can't be written."""
        blocks = self._numbered(Path(path).parent)
        templates = jinja2.Environment(
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            finalize=_shown,
            loader=jinja2.FunctionLoader(_asset),
        )
        page = templates.get_template("page.html").render(
            title=self.title,
            subtitle=self.subtitle,
            css=Markup("\n".join(map(_asset, STYLES))),
            script=Markup("\n".join(f"{{\n{_asset(name)}}}" for name in SCRIPTS)),
            contents=_contents(blocks),
            blocks=blocks,
            made_by=f"ConvMAE {_version('convmae')}",
            written=datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
        )
        write_whole(Path(path), page)

    def save(self, metrics: Mapping[str, Any], work_dir: Path) -> list[Path]:
        """Writes ``metrics.json`` and, as ``report/index.html``, the page; returns their paths. Raises UserError as above."""
        metrics_path, page_path = work_dir / "metrics.json", work_dir / "report" / "index.html"
        write_metrics(metrics_path, metrics)
        self.write(page_path)
        return [metrics_path, page_path]

    def _add(self, kind: str, title: str, caption: str, content: Any = None, **more: Any) -> None:
        self._blocks.append({"kind": kind, "title": title, "caption": caption} | {"content": content} | more)

    def _numbered(self, folder: Path) -> list[dict[str, Any]]:
        """The blocks with what depends on their place: anchors, heading levels, ids within figures, ways to files."""
        blocks = []
        in_part = False
        for number, block in enumerate(self._blocks):
            in_part = in_part or block["kind"] == "part"
            name = re.sub(r"[^a-z0-9]+", "-", block["title"].lower()).strip("-")
            level = 3 if in_part and block["kind"] != "part" else 2
            numbered = {**block, "anchor": f"{name}-{number}", "level": level}
            if block["kind"] == "figure":
                numbered["content"] = Markup(with_own_ids(block["content"], f"f{number}-"))
                numbered["narrow"] = Markup(with_own_ids(block["narrow"], f"n{number}-"))
            if block["kind"] == "pictures":
                numbered |= _gallery(block, f"p{number}", folder)
            blocks.append(numbered)
        return blocks


def _gallery(block: Mapping[str, Any], anchor: str, folder: Path) -> dict[str, Any]:
    pictures, thresholds = block["content"], block["thresholds"]
    levels = [threshold.best for threshold in thresholds] or 0
    return {
        "content": [encode(picture, f"{anchor}-{place}", levels, folder) for place, picture in enumerate(pictures)],
        "dense": is_dense(pictures),
        "shapes": any(isinstance(picture.image, Sequence) and picture.image[0].shapes for picture in pictures),
        "thresholds": [
            {
                "name": threshold.name,
                "right": json.dumps(threshold.right.tolist(), separators=(",", ":")),
                "wrong": json.dumps(threshold.wrong.tolist(), separators=(",", ":")),
                "objects": json.dumps(threshold.objects.tolist(), separators=(",", ":")),
                "mark": threshold.best,
                "what": threshold.what,
                "said": threshold.describe(threshold.best),
            }
            for threshold in thresholds
        ],
    }


def _asset(name: str) -> str:
    return (resources.files("convmae.reports") / "assets" / name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """What stands on the page for a value of the template: of text, control characters as escapes; markup as it is."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return BLANK if value and is_blank(value) else visible(value)


def _contents(blocks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for block in blocks:
        if block["title"]:
            entry = {"title": block["title"], "anchor": block["anchor"], "inner": []}
            (entries if block["level"] == 2 else entries[-1]["inner"]).append(entry)
    return entries


def environment() -> dict[str, str]:
    """Returns what a run depended on: versions, device, threads."""
    import torch

    names = ("torch", "torchvision", "timm", "onedl-mmengine", "onedl-mmsegmentation", "numpy")
    device = f"{_processor()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}; {device}"
    return {
        "convmae": _version("convmae"),
        "python": platform.python_version(),
        **{name.removeprefix("onedl-"): _version(name) for name in names},
        "device": device,
        "system": f"{platform.system()} {platform.machine()}",
    }


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes numbers as JSON, whole or not at all; tensors and NumPy numbers as plain ones, NaN and infinity as null."""
    write_whole(Path(path), json.dumps(_plain(metrics), indent=2) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):  # an array, a tensor or a number of theirs
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_number(value: str | float | None) -> bool:
    return value is None or (not isinstance(value, str) and isinstance(float(value), float))


def _known(values: Sequence[str | float | None]) -> list[float]:
    return [float(value) for value in values if isinstance(value, Share) and math.isfinite(value)]


def _are_shares(values: Sequence[str | float | None]) -> bool:
    return bool(_known(values)) and all(value is None or isinstance(value, Share) for value in values)


def _cell(value: str | float | None, numeric: bool, bar: bool) -> dict[str, Any]:
    if isinstance(value, str):
        return {"text": value, "key": value, "numeric": numeric, "part": None}
    if value is None or not math.isfinite(value):
        return {"text": "–", "key": "", "numeric": numeric, "part": None}
    part = f"{float(value):.4f}" if bar else None
    return {"text": _readable(value), "key": repr(float(value)), "numeric": numeric, "part": part}


def _readable(value: float) -> str:
    if isinstance(value, Share):
        return decimals(100 * value, 1, "+" if isinstance(value, Gain) else "")
    if isinstance(value, numbers.Integral) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return decimals(value, 3 if abs(value) < 100 else 1)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        named = re.search(r"model name\s*:\s*(.+)", listing.read_text(encoding="utf-8", errors="replace"))
        if named:
            return named.group(1).strip()
    return platform.processor() or platform.machine()
