"""Two runs side by side on one page: numbers with their differences, curves, and the options that differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convmae.engine.config import differing_options
from convmae.engine.errors import UserError
from convmae.engine.log import log_done
from convmae.engine.training.scalars import read_scalars
from convmae.reports.intervals import Interval
from convmae.reports.page import Number, Page
from convmae.reports.plots import curves

DIGITS = 3  # of a difference, as many as a table shows of the numbers
Rows = Sequence[tuple[str, float | None, float | None]]


@dataclass(frozen=True)
class Run:
    """A work directory that holds a finished run; its name is short and other than the other run's."""

    name: str
    folder: Path
    metrics: Mapping[str, Any]

    @property
    def config(self) -> Path:
        """The run's whole configuration."""
        return self.folder / "config.yaml"


def read_runs(folders: Sequence[Path]) -> tuple[Run, Run]:
    """Returns the runs of two work directories. Raises UserError where there is none, or for the same one twice."""
    first, second = (folder.resolve() for folder in folders)
    if first == second:
        raise UserError(f"--compare got {folders[0]} twice; expected the work directories of two runs.")
    depth = next(depth for depth in range(1, 1000) if first.parts[-depth:] != second.parts[-depth:])
    names = ["/".join(folder.parts[-depth:]) for folder in (first, second)]
    one, other = (Run(name, folder, _read_metrics(folder)) for name, folder in zip(names, folders, strict=True))
    return one, other


def add_numbers(page: Page, title: str, head: str, runs: Sequence[Run], rows: Rows, caption: str = "") -> None:
    """Adds a table of what both runs reached, and of the second's gain over the first; None where there is no number."""
    page.table(
        title,
        [head, *(run.name for run in runs), "difference"],
        [[label, one, other, _difference(one, other)] for label, one, other in rows],
        caption,
    )


def add_curves(page: Page, title: str, runs: Sequence[Run], key: str, ylabel: str) -> None:
    """Adds a scalar of both runs over the step, if either has logged it."""
    # By number: a run's name might be "step".
    rows = [
        {"step": row["step"], str(number): row[key]}
        for number, run in enumerate(runs)
        for row in read_scalars(run.folder)
        if key in row
    ]
    if rows:
        page.figure(title, curves(rows, {run.name: str(number) for number, run in enumerate(runs)}, ylabel))


def most_changed(before: Sequence[float], after: Sequence[float], count: int) -> tuple[list[int], list[int]]:
    """Returns which pictures the first run does better by most, at most ``count``, and which the second does."""
    gains = [new - old for old, new in zip(before, after, strict=True)]
    order = sorted(range(len(gains)), key=lambda number: gains[number])
    first, second = order[:count], order[::-1][:count]
    return [number for number in first if gains[number] < 0], [number for number in second if gains[number] > 0]


def gain_number(label: str, one: float, other: float, ends: Interval | None = None) -> Number:
    """Returns the headline of a share that went from ``one`` to ``other``, in points of 100; ``ends`` are those of the gain."""
    note = f"from {100 * one:.1f} to {100 * other:.1f}"
    return Number(label, f"{100 * (other - one):+.1f}", f"{note}; {ends.points('+')}" if ends else note)


def add_options(page: Page, runs: Sequence[Run]) -> None:
    """Adds the options that the runs' configurations give other values."""
    rows = differing_options(*(run.config for run in runs))
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
    one, other = numbers
    log_done({f"{name} gained": other[name] - one[name] for name in headline}, paths, seconds)
    return page


def _difference(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return None
    gain = round(other - one, DIGITS)
    return gain or abs(gain)  # -0 reads as 0


def _read_metrics(folder: Path) -> dict[str, Any]:
    for name in ("metrics.json", "config.yaml"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no {name}; expected the work directory of a finished run or test.")
    try:
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'metrics.json'} can't be read: {error}.") from None
    return metrics
