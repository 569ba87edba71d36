"""What the pages of all tasks' runs share: what was remarked on the data, what was skipped, and how the run was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convmae.engine.config import to_yaml
from convmae.engine.faults import Remark
from convmae.engine.log import duration
from convmae.reports.data_report import LISTED
from convmae.reports.page import Page, curves, environment


def add_remarks(page: Page, splits: Mapping[str, Sequence[Remark]]) -> None:
    """Adds to a run's page what it went on with, by split and kind, if there is anything."""
    rows: list[list[str | float | None]] = [
        [remark.kind, split, remark.count, remark.effect.value, remark.first[0]]
        for split, remarks in splits.items()
        for remark in remarks
    ]
    if rows:
        page.table("Remarks on the data", ["kind", "split", "count", "effect", "the first"], rows)


def add_unread(page: Page, unread: Mapping[str, str]) -> dict[str, Any]:
    """Adds to a run's page the training pictures that others took the place of; returns what ``metrics.json`` holds of them.

    ``unread``: why each could not be read, by its file. Nothing is added where all could.
    """
    if not unread:
        return {}
    rows = [[name, reason] for name, reason in sorted(unread.items())]
    shown = f"{min(len(rows), LISTED):,} of {len(rows):,}; metrics.json beside the report lists all."
    page.table("Training pictures that can't be read", ["picture", "reason"], rows[:LISTED], shown)
    return {"unreadable": {"count": len(unread), "pictures": dict(sorted(unread.items()))}}


def add_feeding(page: Page, rows: Sequence[Mapping[str, float]]) -> None:
    """Adds to a run's page how fast it was fed, by the rows of its scalars; nothing of runs that didn't count it."""
    told = [row for row in rows if "waiting" in row]
    if not told:
        return
    page.figure("Pictures a second", curves(told, {"pictures a second": "pictures_per_second"}, "pictures a second"))
    later = told[1:] or told  # the first has the start of the loader processes
    rate, waiting = (sum(row[name] for row in later) / len(later) for name in ("pictures_per_second", "waiting"))
    page.facts(
        "Feeding",
        {
            "pictures a second": f"{rate:,.1f}, of all processes",
            "waiting for data": f"{waiting:.1%} of a step",
            "peak memory": f"{max(row['memory_gib'] for row in told):.2f} GiB, of PyTorch on a GPU, else of the first process",
        },
    )


def add_run(page: Page, config: Any, weights: Path, seconds: float, cost: Mapping[str, str] | None = None) -> None:
    """Adds the page's end: which weights, how long, what it took (``cost``), on what, and the whole configuration."""
    page.facts("Run", {"weights": str(weights), "time": duration(seconds), **(cost or {}), **environment()})
    page.code("Configuration", to_yaml(config))
