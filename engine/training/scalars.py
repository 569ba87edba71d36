"""The losses and scores of a run over its steps: a row of JSON for each line of the log and each evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convmae.engine.errors import unwritable
from convmae.engine.files import write_whole

SCALARS = "scalars.jsonl"


def append_row(work_dir: Path, step: int, row: dict[str, float]) -> None:
    """Appends the row of a step. Raises UserError where that can't be."""
    path = work_dir / SCALARS
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
    except OSError as error:
        raise unwritable(path, error) from error


def read_scalars(work_dir: Path) -> list[dict[str, float]]:
    """Returns one row a step, in order of steps, from the scalars of a work directory; none where none were written.

    Of a step that was logged twice the later values hold.
    """
    rows: dict[int, dict[str, float]] = {}
    for row in _rows(Path(work_dir) / SCALARS):
        rows.setdefault(int(row["step"]), {}).update(row)
    return [rows[step] for step in sorted(rows)]


def cut_scalars(work_dir: Path, step: int, evaluated: bool) -> None:
    """Removes the rows past a step, which the run that continues from it writes again; and that of an evaluation at the step.

    ``evaluated``: the run evaluates at that step, and repeats it, for it may have ended within it.
    """
    path = work_dir / SCALARS
    kept = [
        row for row in _rows(path) if row["step"] < step or (row["step"] == step and ("lr" in row or not evaluated))
    ]
    if path.is_file():
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file; a line torn by a killed run is passed over, what a later one appended to it is read."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        row = _read_row(line)
        if row is not None and "step" in row:
            yield row


def _read_row(line: str) -> dict[str, Any] | None:
    for start in (0, max(line.rfind("{"), 0)):  # the rows are flat, so the last brace opens the last row
        try:
            row = json.loads(line[start:])
        except json.JSONDecodeError:
            continue
        return row if isinstance(row, dict) else None
    return None
