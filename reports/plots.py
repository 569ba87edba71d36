"""Figures of one style for the report pages, which recolour them for light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from convmae.engine.text import shown
from convmae.reports.fonts import families

# The page replaces all of these by its own colours of the same order, so that a figure follows its light or dark theme.
LINE_COLOURS = ("#0f8b8d", "#d9622b", "#5b6ee1", "#b8456b", "#7f8e22", "#9a6a3a", "#2f9e63", "#8f5fbf")
INK, RULE, DARK = "#101112", "#d0d1d2", "#202122"  # DARK: letters on full colours
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
LABEL, LEGEND = 28, 48  # letters of a name along an axis and in a legend; a longer one loses its middle
POINTS = 400  # of a line that are told under the pointer
MANY = 40  # more values than this are drawn as a running mean over faint single ones


class Chart(Figure):
    """A figure with the values that a page shows under the pointer; None where there are none to show.

    Of lines: ``kind``, ``x`` and ``y`` (what the axes are of) and ``lines``, each with its label and points; of a histogram
    also ``spans``, what is said of each x; of a matrix: ``kind``, ``rows`` (names), ``values`` (shares)
    and, if known, ``counts``.
    """

    values: dict[str, Any] | None = None


def axes(width: float = 8.6, height: float = 3.3) -> tuple[Chart, Axes]:
    """Returns a figure of ``width`` x ``height`` inches in the report's style and its axes."""
    with rc_context(STYLE):
        figure = Chart(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def curves(rows: Sequence[Mapping[str, float]], keys: Mapping[str, str], ylabel: str) -> Chart:
    """Draws scalars over the step, one line for each ``{label: key}``; rows that lack a key are passed over for it.

    Where there are many values, each is drawn faint and their running mean, over a fiftieth of them, in full colour.
    """
    figure, plot = axes()
    known = {label: [(row["step"], row[key]) for row in rows if key in row] for label, key in keys.items()}
    drawn: dict[str, Line2D] = {}
    for color, (label, points) in zip(_cycle(len(known)), known.items(), strict=True):
        if not points:
            continue
        steps, values = np.asarray(points, np.float64).T
        if len(points) > MANY:
            plot.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            (drawn[label],) = plot.plot(steps, _running_mean(values, 2 * (len(values) // 100) + 1), color=color)
        else:
            (drawn[label],) = plot.plot(steps, values, color=color, marker="o", markersize=4)
    plot.set_xlabel("step")
    plot.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True))
    plot.set_ylabel(ylabel)
    if not drawn:
        plot.text(0.5, 0.5, "nothing was logged", transform=plot.transAxes, ha="center", va="center")
    _finish(figure, plot, drawn)
    return figure


def lines(x: ArrayLike, ys: Mapping[str, ArrayLike], xlabel: str, ylabel: str, mark: float | None = None) -> Chart:
    """Draws one line for each label over the same ``x``, as precision over recall, and a dashed one at the x to ``mark``."""
    figure, plot = axes()
    drawn: dict[str, Line2D] = {}
    for color, (label, values) in zip(_cycle(len(ys)), ys.items(), strict=True):
        (drawn[label],) = plot.plot(np.asarray(x), np.asarray(values), color=color)
    if mark is not None:
        plot.axvline(mark, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    plot.set_xlabel(xlabel)
    plot.set_ylabel(ylabel)
    _finish(figure, plot, drawn)
    return figure


def spreads(
    values: Mapping[str, Mapping[float, Sequence[float]]],
    ends: Mapping[str, Mapping[float, tuple[float, float]]],
    ticks: Mapping[float, str],
    xlabel: str,
    ylabel: str,
) -> Chart:
    """Draws the means of several values over x, which is logarithmic, a line for each label, the single values faint.

    ``ends`` are those of an interval around a mean, which is cut off where it is far longer than the values are apart;
    ``ticks`` names each x.
    """
    figure, plot = axes()
    drawn: dict[str, Line2D] = {}
    told: list[dict[str, Any]] = []
    for number, (color, (label, of_one)) in enumerate(zip(_cycle(len(values)), values.items(), strict=True)):
        beside = 1.015 ** (number - (len(values) - 1) / 2)  # lines beside each other, so that none hides another
        means = {x: float(np.mean(found)) for x, found in sorted(of_one.items()) if len(found)}
        places = [x * beside for x in means]
        (drawn[label],) = plot.plot(places, list(means.values()), color=color, marker="o", markersize=5)
        for x, found in of_one.items():
            plot.plot(
                [x * beside] * len(found), found, color=color, alpha=0.5, linestyle="", marker="o", markersize=3.5
            )
        for x, (low, high) in ends.get(label, {}).items():
            plot.plot([x * beside] * 2, [low, high], color=color, linewidth=1.2)
        told.append({"label": label, "points": [[x, float(f"{mean:.5g}")] for x, mean in means.items()]})
    every = [one for of_one in values.values() for found in of_one.values() for one in found]
    if every:
        room = 0.4 * (max(every) - min(every)) or 1.0
        plot.set_ylim(max(0.0, min(every) - room), max(every) + room)
    plot.set_xscale("log")
    plot.set_xticks(list(ticks), list(ticks.values()))
    plot.xaxis.set_minor_locator(NullLocator())
    plot.yaxis.set_major_formatter(FuncFormatter(tick))
    plot.set_xlabel(xlabel)
    plot.set_ylabel(ylabel)
    _legend(plot, drawn)
    if drawn:
        there = sorted({x for line in told for x, _ in line["points"]})
        spans = [ticks[x].replace("\n", ", ") for x in there]
        figure.values = {"kind": "lines", "x": xlabel, "y": ylabel, "lines": told, "spans": spans}
    return figure


def histogram(values: Mapping[str, NDArray], xlabel: str) -> Chart:
    """Draws what share of sizes lies about each power of the root of two, one outline for each label; below 1 counts as 1."""
    figure, plot = axes()
    steps = {label: np.round(2 * np.log2(sizes.clip(min=1))).astype(int) for label, sizes in values.items()}
    low = min((int(of_one.min()) for of_one in steps.values() if len(of_one)), default=0) - 1
    high = max((int(of_one.max()) for of_one in steps.values() if len(of_one)), default=0) + 1
    edges = 2 ** ((np.arange(low, high + 2) - 0.5) / 2)
    drawn, told = {}, []
    for number, (color, (label, of_one)) in enumerate(zip(_cycle(len(steps)), steps.items(), strict=True)):
        shares = 100 * np.bincount(of_one - low, minlength=high - low + 1) / max(1, len(of_one))
        # Dashes let one that is the same be seen below.
        drawn[label] = plot.stairs(shares, edges, color=color, linewidth=1.8, linestyle=(0, (5, 2)) if number else "-")
        told.append(
            {"label": label, "points": np.column_stack([np.sqrt(edges[1:] * edges[:-1]), shares.round(2)]).tolist()}
        )
    plot.set_xscale("log", base=2)
    plot.xaxis.set_major_formatter(FuncFormatter(tick))
    plot.set_xlabel(xlabel)
    plot.set_ylabel("share, %")
    plot.set_ylim(bottom=0)
    _legend(plot, drawn)
    spans = [f"{start:.3g} to {end:.3g}" for start, end in pairwise(edges)]
    figure.values = {"kind": "lines", "x": xlabel, "y": "share, %", "lines": told, "spans": spans}
    return figure


def matrix(
    values: ArrayLike,
    names: Sequence[str],
    xlabel: str = "predicted",
    ylabel: str = "true",
    counts: ArrayLike | None = None,
) -> Chart:
    """Draws a square matrix of shares in 0..1, rows first, with its figures in the cells where they have room.

    ``counts``, of the same shape, are told beside a share under the pointer.
    """
    cells, names = np.asarray(values, np.float64), [shown(name, LABEL) for name in names]
    count = len(names)
    side = min(2.2 + 0.42 * count, 9.5)
    figure, plot = axes(side + 0.6, side)
    plot.grid(False)
    # Opacity, not lightness, tells the share: the page's own background shows through, light or dark.
    tint = np.empty((*cells.shape, 4))
    tint[...] = (*to_rgb(LINE_COLOURS[0]), 0)
    tint[..., 3] = np.clip(np.nan_to_num(cells), 0, 1) ** 0.7
    plot.imshow(tint, interpolation="none")
    if count <= 40:
        font: dict[str, Any] = {"fontsize": 9 if count <= 12 else 7.5, "fontfamily": families(names)}
        plot.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor", **font)
        plot.set_yticks(range(count), names, **font)
    else:
        plot.set_xticks([])
        plot.set_yticks([])
    if count <= 16:
        for (row, column), share in np.ndenumerate(cells):
            if share >= 0.005:
                color = DARK if share > 0.5 else INK
                plot.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=color, fontsize=9)
    plot.set_xlabel(xlabel)
    plot.set_ylabel(ylabel)
    for spine in plot.spines.values():
        spine.set_visible(False)
    figure.values = {"kind": "matrix", "rows": names, "values": np.round(np.nan_to_num(cells), 4).tolist()}
    if counts is not None:
        figure.values["counts"] = np.asarray(counts).tolist()
    return figure


def _finish(figure: Chart, plot: Axes, lines: Mapping[str, Line2D]) -> None:
    """Gives the axes ticks that read well, and the figure its legend and its values, at most POINTS a line."""
    for axis in (plot.xaxis, plot.yaxis):
        if axis.get_scale() == "linear":
            axis.set_major_formatter(FuncFormatter(tick))
    _legend(plot, lines)
    told = []
    for label, line in lines.items():
        points = np.column_stack([np.asarray(line.get_xdata(), np.float64), np.asarray(line.get_ydata(), np.float64)])
        points = points[np.isfinite(points).all(axis=1)]
        kept = points[np.unique(np.linspace(0, len(points) - 1, POINTS).round().astype(int))] if len(points) else points
        told.append({"label": label, "points": [[float(f"{value:.5g}") for value in point] for point in kept.tolist()]})
    if lines:
        figure.values = {"kind": "lines", "x": plot.get_xlabel(), "y": plot.get_ylabel(), "lines": told}


def tick(value: float, _: object = None) -> str:
    """Returns the label of a tick: thousands apart, small numbers by powers of ten, and no negative zero."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.10g}"
    if abs(value) < 0.001:
        return f"{value:.3g}".replace("e-0", "e-")
    return f"{value:.6g}"


def _legend(plot: Axes, lines: Mapping[str, Artist]) -> None:
    """Explains the lines, if there are several, in columns of ten."""
    if len(lines) > 1:
        # Lines and labels are given: matplotlib alone would pass over a name that begins with an underscore.
        labels = [shown(label, LEGEND) for label in lines]
        font = {"family": families(labels)}
        plot.legend([*lines.values()], labels, ncols=math.ceil(len(lines) / 10), frameon=False, prop=font)


def _cycle(count: int) -> list[str]:
    return [LINE_COLOURS[index % len(LINE_COLOURS)] for index in range(count)]


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over ``window`` values around each; over fewer at the ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
