"""Report pages: one self-contained HTML file with numbers, tables, figures and pictures; and the files they rest on."""

from __future__ import annotations

import base64
import datetime
import io
import json
import math
import numbers
import platform
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from convmae.engine.files import write_whole
from convmae.engine.text import BLANK, is_blank, visible
from convmae.reports import plots
from convmae.reports.drawing import Colour, draw_boxes, draw_labels, pair, palette
from convmae.reports.plots import curves

__all__ = [
    "Number",
    "Page",
    "Picture",
    "curves",
    "draw_boxes",
    "draw_labels",
    "environment",
    "pair",
    "palette",
    "write_metrics",
]

LARGEST_PICTURE = 1400  # longer sides are shrunk to this many pixels, to keep the page light


@dataclass(frozen=True)
class Number:
    """One headline number: what it is, its value as it is to be read, and a remark."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    image: Image.Image
    caption: str = ""


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
        """Numbers stand to the right; columns of floats in 0..1 carry a bar; None and NaN read as a dash and sort last."""
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"table {title!r} has {len(columns)} columns and a row of {len(row)}: {row}")
        by_column = [[row[index] for row in rows] for index in range(len(columns))]
        heads = [
            {"name": name, "numeric": bool(values) and all(_is_number(value) for value in values)}
            for name, values in zip(columns, by_column, strict=True)
        ]
        shares = [_are_shares(values) for values in by_column]
        cells = [
            [_cell(value, bool(head["numeric"]), share) for value, head, share in zip(row, heads, shares, strict=True)]
            for row in rows
        ]
        self._add("table", title, caption, cells, columns=heads, sortable=sortable and len(rows) > 1, bars=sum(shares))

    def figure(self, title: str, fig: Figure, caption: str = "") -> None:
        width = round(float(fig.get_figwidth()) * 96)
        self._add("figure", title, caption, _svg(fig), width=width)

    def validation(self, rows: Sequence[Mapping[str, float]], keys: Mapping[str, str], ylabel: str) -> None:
        """Adds the scores of a run's evaluations, ``{label: key}``, over the step where there were several.

        A single evaluation's are in the headline, and as points on a chart they would say nothing.
        """
        if sum(any(key in row for key in keys.values()) for row in rows) > 1:
            self.figure("Validation", curves(rows, keys, ylabel))

    def pictures(
        self,
        title: str,
        pictures: Sequence[Picture],
        caption: str = "",
        columns: int = 3,
        legend: Sequence[tuple[str, Colour]] = (),
    ) -> None:
        """At most ``columns`` pictures stand in a row, fewer where the window is narrow; ``legend`` explains colours."""
        content = [_encode(picture) for picture in pictures]
        self._add("pictures", title, caption, content, columns=columns, legend=[(name, tuple(c)) for name, c in legend])

    def facts(self, title: str, facts: Mapping[str, str]) -> None:
        self._add("facts", title, "", dict(facts))

    def text(self, title: str, paragraphs: str | Sequence[str]) -> None:
        self._add("text", title, "", [paragraphs] if isinstance(paragraphs, str) else list(paragraphs))

    def code(self, title: str, text: str) -> None:
        self._add("code", title, "", text)

    def write(self, path: Path) -> None:
        """Writes the page; a reader never meets half of it. Raises UserError where it can't be written."""
        source = resources.files("convmae.reports")
        blocks = self._numbered()
        template = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_shown
        ).from_string((source / "page.html").read_text(encoding="utf-8"))
        page = template.render(
            title=self.title,
            subtitle=self.subtitle,
            css=Markup((source / "page.css").read_text(encoding="utf-8")),
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

    def _add(self, kind: str, title: str, caption: str, content: Any, **more: Any) -> None:
        self._blocks.append({"kind": kind, "title": title, "caption": caption, "content": content, **more})

    def _numbered(self) -> list[dict[str, Any]]:
        """The blocks with what depends on their place: anchors, heading levels, ids within figures."""
        blocks = []
        in_part = False
        for number, block in enumerate(self._blocks):
            in_part = in_part or block["kind"] == "part"
            name = re.sub(r"[^a-z0-9]+", "-", block["title"].lower()).strip("-")
            level = 3 if in_part and block["kind"] != "part" else 2
            numbered = {**block, "anchor": f"{name}-{number}", "level": level}
            if block["kind"] == "figure":
                numbered["content"] = Markup(_with_own_ids(block["content"], f"f{number}-"))
            blocks.append(numbered)
        return blocks


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


def _are_shares(values: Sequence[str | float | None]) -> bool:
    """Whether a column holds shares, which a bar can show: floats in 0..1, integers being counts."""
    known = [value for value in values if value is not None]
    floats = [float(value) for value in known if not isinstance(value, (str, numbers.Integral))]
    finite = [value for value in floats if math.isfinite(value)]
    return bool(finite) and len(floats) == len(known) and min(finite) >= 0 and max(finite) <= 1


def _cell(value: str | float | None, numeric: bool, share: bool) -> dict[str, Any]:
    if isinstance(value, str):
        return {"text": value, "key": value, "numeric": numeric, "part": None}
    if value is None or not math.isfinite(value):
        return {"text": "–", "key": "", "numeric": numeric, "part": None}
    part = f"{float(value):.4f}" if share else None
    return {"text": _readable(value), "key": repr(float(value)), "numeric": numeric, "part": part}


def _readable(value: float) -> str:
    if isinstance(value, numbers.Integral) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _svg(figure: Figure) -> str:
    """The figure as inline SVG in the page's colours; matplotlib escapes its labels."""
    buffer = io.StringIO()
    for written in figure.findobj(Text):
        written.set_parse_math(False)  # a name with two dollar signs is no formula
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "convmae"}), warnings.catch_warnings():
        # The reader's browser writes the text, in fonts of its own.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL).replace("xlink:href", "href")
    # Within style attributes only: a label that happens to read so stays as it is.
    return re.sub(r'(?<= )style="[^"]*"', lambda style: _page_colours(style.group()), text)


def _with_own_ids(svg: str, prefix: str) -> str:
    """Keeps the ids of one figure apart from those of another."""
    ids = re.compile(r'(\bid="|url\(#|href="#)')
    return re.sub(r"<[^>]+>", lambda tag: ids.sub(rf"\g<1>{prefix}", tag.group()), svg)


def _page_colours(style: str) -> str:
    style = re.sub(r"(font(-family)?: [^;\"]*)", lambda font: re.sub(r"'.*", "var(--sans)", font.group()), style)
    for index, color in enumerate(plots.LINE_COLOURS):
        style = style.replace(color, f"var(--line-{index})")
    return style.replace(plots.INK, "var(--ink)").replace(plots.RULE, "var(--rule)").replace("#000000", "var(--ink)")


def _encode(picture: Picture) -> dict[str, Any]:
    """The picture as a data address: PNG where its colours are few, as in drawings, else JPEG."""
    image = picture.image.convert("RGB")
    if max(image.size) > LARGEST_PICTURE:
        image.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if image.getcolors(256):
        kind = "png"
        image.save(buffer, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=88, subsampling=0, optimize=True)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return {"source": source, "width": image.width, "height": image.height, "caption": picture.caption}


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
