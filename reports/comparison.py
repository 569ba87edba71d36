"""Runs side by side on one page: numbers with their differences, curves, and the options that differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convmae.engine.config import differing_options
from convmae.engine.errors import UserError
from convmae.engine.log import log_done
from convmae.engine.text import decimals
from convmae.engine.training.scalars import read_scalars
from convmae.reports.intervals import Interval
from convmae.reports.page import Gain, Number, Page, Share
from convmae.reports.plots import curves

Row = tuple[str, Sequence[float | None]]  # what it is of, and the value of each run


@dataclass(frozen=True)
class Run:
    """A work directory that holds a finished run; its name is short and other than the other runs'."""

    name: str
    folder: Path
    metrics: Mapping[str, Any]

    @property
    def config(self) -> Path:
        """The run's whole configuration."""
        return self.folder / "config.yaml"


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Returns the runs of work directories. Raises UserError where there is none, for one alone, or for the same one twice."""
    if len(folders) < 2:
        raise UserError(f"--compare got {len(folders)} folder; expected the work directories of two runs or more.")
    places = [folder.resolve() for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"--compare got {folders[number]} twice; expected the work directories of different runs.")
    depth = next(depth for depth in range(1, 1000) if len({place.parts[-depth:] for place in places}) == len(places))
    names = ["/".join(place.parts[-depth:]) for place in places]
    return [Run(name, folder, _read_metrics(folder)) for name, folder in zip(names, folders, strict=True)]


def listed(runs: Sequence[Run]) -> str:
    """Returns the names of the runs as a sentence has them."""
    return f"{', '.join(run.name for run in runs[:-1])} and {runs[-1].name}"


def add_numbers(page: Page, title: str, head: str, runs: Sequence[Run], rows: Sequence[Row], caption: str = "") -> None:
    """Adds a table of what the runs reached, and of the others' gains over the first; None where there is no number."""
    gains = ["difference"] if len(runs) == 2 else [f"{run.name} less {runs[0].name}" for run in runs[1:]]
    page.table(
        title,
        [head, *(run.name for run in runs), *gains],
        [[label, *values, *(_difference(values[0], value) for value in values[1:])] for label, values in rows],
        caption,
    )


def add_curves(page: Page, title: str, runs: Sequence[Run], key: str, ylabel: str, scale: float = 1) -> None:
    """Adds a scalar of the runs over the step, if one has logged it more than once; ``scale`` times its value."""
    # By number: a run's name might be "step".
    rows = [
        {"step": row["step"], str(number): scale * row[key]}
        for number, run in enumerate(runs)
        for row in read_scalars(run.folder)
        if key in row
    ]
    if any(sum(str(number) in row for row in rows) > 1 for number in range(len(runs))):
        page.figure(title, curves(rows, {run.name: str(number) for number, run in enumerate(runs)}, ylabel))


def most_changed(scores: Sequence[Sequence[float]], count: int) -> list[list[int]]:
    """Returns for each run the pictures that it does better than all others by most, at most ``count``.

    scores: those of each run's pictures, in one order.
    """
    values = np.asarray(scores, dtype=np.float64)
    chosen = []
    for number, own in enumerate(values):
        gain = own - np.delete(values, number, axis=0).max(axis=0)
        order = np.argsort(-gain, kind="stable")[:count]
        chosen.append([int(place) for place in order if gain[place] > 0])
    return chosen


def gain_numbers(
    label: str, runs: Sequence[Run], scores: Sequence[float], ends: Sequence[Interval | None] = ()
) -> list[Number]:
    """Returns the headlines of what the other runs gained over the first in a share; ``ends`` are those of the gains."""
    return [
        gain_number(label if len(runs) == 2 else f"{label}, {run.name}", scores[0], score, end)
        for run, score, end in zip(runs[1:], scores[1:], ends or [None] * (len(runs) - 1), strict=True)
    ]


def gain_number(label: str, one: float, other: float, ends: Interval | None = None) -> Number:
    """Returns the headline of a share that went from ``one`` to ``other``, in points of 100; ``ends`` are those of the gain."""
    note = f"from {100 * one:.1f} to {100 * other:.1f}\u00a0%"
    return Number(label, decimals(100 * (other - one), 1, "+"), f"{note}; {ends.points('+')}" if ends else note)


def add_options(page: Page, runs: Sequence[Run]) -> None:
    """Adds the options that the runs' configurations give other values."""
    first, *others = runs
    changes = [{name: pair for name, *pair in differing_options(first.config, run.config)} for run in others]
    kept = {name: pair[0] for changed in changes for name, pair in changed.items()}
    rows = [[name, own, *(changed.get(name, [own, own])[1] for changed in changes)] for name, own in kept.items()]
    if rows:
        page.table("Options that differ", ["option", *(run.name for run in runs)], rows, sortable=False)
    else:
        page.text("Options that differ", "None.")


def finish(
    page: Page,
    runs: Sequence[Run],
    numbers: Sequence[Mapping[str, Any]],
    headline: Sequence[str],
    seconds: float,
    work_dir: Path,
) -> Page:
    """Ends a page with where its runs lie and what options differ, writes it and ``metrics.json``, and logs the gains.

    ``numbers`` are each run's scores, of which those named in ``headline`` are logged; ``seconds``: what the scoring took.
    Returns the page.
    """
    page.facts("Runs", {run.name: str(run.folder) for run in runs})
    add_options(page, runs)
    paths = page.save({run.name: scores for run, scores in zip(runs, numbers, strict=True)}, work_dir)
    one, *others = numbers
    gained = {
        f"{name} gained" + (f" by {run.name}" if len(runs) > 2 else ""): other[name] - one[name]
        for run, other in zip(runs[1:], others, strict=True)
        for name in headline
    }
    log_done(gained, paths, seconds)
    return page


def _difference(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return None
    return Gain(other - one) if isinstance(other, Share) else other - one


def _read_metrics(folder: Path) -> dict[str, Any]:
    for name in ("metrics.json", "config.yaml"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no {name}; expected the work directory of a finished run or test.")
    try:
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'metrics.json'} can't be read: {error}.") from None
    return metrics
