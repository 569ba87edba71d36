"""Figures as SVG within a page: in its colours, light and dark, and with their values for the pointer."""

from __future__ import annotations

import io
import json
import re
import warnings
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from convmae.engine.text import shown
from convmae.reports import plots
from convmae.reports.plots import Chart

NARROW = (4.2, 3.2)  # inches of a chart of lines on a telephone


def figure_block(figure: Figure) -> dict[str, Any]:
    """Returns a figure as SVG, ``content``, for a narrow window as well where it can be, and its values as JSON, ``tips``."""
    width = round(float(figure.get_figwidth()) * 96)
    wide, narrow, frames = svg(figure), "", [_frame(figure)]
    values = figure.values if isinstance(figure, Chart) else None
    if values and values["kind"] == "lines":
        figure.set_size_inches(*NARROW)
        for plot in figure.axes:
            if plot.get_xscale() == "linear":
                plot.locator_params(axis="x", nbins=5)
            plot.locator_params(axis="y", nbins=5)
            legend = plot.get_legend()
            for name in legend.get_texts() if legend else ():
                name.set_text(shown(name.get_text(), plots.LABEL))
        narrow = svg(figure)
        frames.append(_frame(figure))
    if values and values["kind"] == "lines":
        plot = figure.axes[0]
        values = {**values, "axis": {"limits": list(plot.get_xlim()), "log": plot.get_xscale() == "log"}}
    tips = json.dumps({**values, "frames": frames}) if values else ""
    return {"content": wide, "narrow": narrow, "width": width, "tips": tips}


def _frame(figure: Figure) -> dict[str, float]:
    """Returns where the axes stand in the figure that was drawn last, in parts of it from the left and the top."""
    if not figure.axes:
        return {}
    place = figure.axes[0].get_position()
    sides = {"left": place.x0, "top": 1 - place.y1, "right": place.x1, "bottom": 1 - place.y0}
    return {side: round(float(at), 4) for side, at in sides.items()}


def svg(figure: Figure) -> str:
    """Returns the figure as inline SVG in the page's colours; matplotlib escapes its labels."""
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


def with_own_ids(text: str, prefix: str) -> str:
    """Keeps the ids of one figure apart from those of another."""
    ids = re.compile(r'(\bid="|url\(#|href="#)')
    return re.sub(r"<[^>]+>", lambda tag: ids.sub(rf"\g<1>{prefix}", tag.group()), text)


def _page_colours(style: str) -> str:
    style = re.sub(r"(font(-family)?: [^;\"]*)", lambda font: re.sub(r"'.*", "var(--sans)", font.group()), style)
    for index, color in enumerate(plots.LINE_COLOURS):
        style = style.replace(color, f"var(--line-{index})")
    return (
        style.replace(plots.INK, "var(--ink)")
        .replace(plots.RULE, "var(--rule)")
        .replace(plots.DARK, "var(--dark)")
        .replace("#000000", "var(--ink)")
    )
