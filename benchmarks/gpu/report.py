"""The page of what was measured on GPUs, and counted anywhere: drawn from the files that the commands wrote."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convmae.benchmarks.gpu.aims import AIMS
from convmae.benchmarks.gpu.battery import Item, Row, shown

GPU, COUNTS = "gpu", "steps"  # kinds of files

OPENING = """\
# On a GPU

Drawn by `python tools/benchmark.py gpu --report docs/gpu.md --read FILE ...` from what the commands below wrote; no figure
here is typed by hand. Aims are for one H200.

```
python tools/benchmark.py gpu --data DATA --budget 440 --output gpu.json    # on a machine with a GPU
python tools/benchmark.py steps --output steps.json                         # counts, on any machine
```

The first checks and times everything in one process, in the order of worth, and keeps each row as it is made; `--help` says
how to pick parts and how to go on. Where the project can't be installed, `tools/pack_gpu.sh` makes a folder that brings what
is missing, and says the line that runs it. `pytest tests/gpu` holds the part that asks whether it is right. Times are CUDA
events' over regions of many steps, medians of five, forms in turn; memory is what PyTorch allocates at most, weights
included; shares are of the bf16 product and the copy that the same run measured.
"""

UNMEASURED = """\
**No run on a GPU has been read: every figure for GPUs, and so every aim below, is unmeasured.** The battery itself runs at
tiny sizes on a CPU as its own test.
"""

# Columns that say nothing once the rows of a case stand in a table of their own.
_PASSED_OVER = {"item", "case", "traceback", "ceilings", "steps"}


def draw(files: Sequence[Mapping[str, Any]], items: Sequence[Item]) -> str:
    """Returns the page as Markdown. Runs at tiny sizes, which say nothing of speed, are not drawn."""
    runs = [found for found in files if found.get("comparison") == GPU and not found.get("tiny")]
    counts = [found for found in files if found.get("comparison") == COUNTS]
    parts = [OPENING]
    if not runs:
        parts += [UNMEASURED, _aims_unmeasured()]
    for found in runs:
        parts += _run(found, items)
    for found in counts:
        parts += _counts(found)
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _aims_unmeasured() -> str:
    return "## Aims\n\n" + table([{"aim": aim.text, "bound": aim.bound, "measured": "unmeasured"} for aim in AIMS])


def _run(found: Mapping[str, Any], items: Sequence[Item]) -> Iterable[str]:
    """The sections of one file of the battery."""
    rows: list[Row] = found["rows"]
    machine = ", ".join(f"{name} {shown(value)}" for name, value in found["machine"].items() if name != "device")
    yield f"## {found['machine']['device']}, {found['date']}\n\n{machine}.\n"
    if aims := [row for row in rows if "aim" in row]:
        named = [{**row, "met": "met" if row["met"] else "**missed**"} for row in aims]
        yield "### Aims\n\n" + table(named)
    if missed := [row for row in aims if not row["met"]]:
        longest = _longest(rows, {row["item"] for row in missed})
        if longest:
            yield "What takes longest where an aim was missed, from one profiled step:\n\n" + table(
                longest, keep={"case"}
            )
    for item in items:
        own = [row for row in rows if row["item"] == item.name and "aim" not in row and "kernel" not in row]
        if own:
            yield f"### {item.title}"
            yield from _cases(own)
    if left_out := found.get("left_out"):
        yield "### Left out for lack of time\n\n" + "\n".join(f"- {key}: {why}" for key, why in left_out.items()) + "\n"


def _longest(rows: Sequence[Row], items: set[str], count: int = 3) -> list[Row]:
    """The first kernels of each profiled case of these items; they stand in the order of their time."""
    kernels = [row for row in rows if "kernel" in row and row["item"] in items]
    return [
        row
        for _, own in itertools.groupby(kernels, lambda row: (row["item"], row["case"]))
        for row in list(own)[:count]
    ]


def _cases(rows: Sequence[Row]) -> Iterable[str]:
    """Lines for checks and failures, a line a case or more, then tables for each case."""
    lines: list[str] = []
    tables: list[str] = []
    for case, own in itertools.groupby(rows, lambda row: row["case"]):
        some = list(own)
        if checks := [row for row in some if "allowed" in row and "what" in row]:
            lines += _checks(case, checks)
        for row in some:
            if "error" in row:
                lines.append(f"- {', '.join(filter(None, (case, row.get('form'))))}: failed, {_cell(row['error'])}")
        if good := [row for row in some if "error" not in row and row not in checks]:
            tables.append(f"**{_cell(case)}**")
            tables += [table(list(same)) for _, same in itertools.groupby(good, key=list)]
    if lines:
        yield "\n".join(lines)
    yield from tables


def _checks(case: str, checks: Sequence[Row]) -> list[str]:
    """How many checks there were, the one that is nearest to its bound, and all that were missed."""
    worst = max(checks, key=lambda row: row["found"] / row["allowed"] if row["allowed"] else row["found"])
    missed = [row for row in checks if not row["met"]]
    outcome = f"**{len(missed)} missed**" if missed else "all met"
    said = f"- {case}: {len(checks)} check{'s' * (len(checks) > 1)}, {outcome}; nearest to its bound: {_bound(worst)}"
    return [said, *(f"  - missed: {_bound(row)}" for row in missed if row is not worst)]


def _bound(row: Row) -> str:
    return f"{row['what']}, {shown(row['found'])} of {shown(row['allowed'])}"


def _counts(found: Mapping[str, Any]) -> Iterable[str]:
    machine = ", ".join(f"{name} {value}" for name, value in found.get("machine", {}).items() if value is not None)
    yield f"## Counted on any machine\n\nBy `python tools/benchmark.py steps` ({machine}).\n"
    for _, same in itertools.groupby(found["rows"], key=list):
        yield table(list(same))


def table(rows: Sequence[Row], keep: Iterable[str] = ()) -> str:
    """Returns rows of the same keys as a Markdown table."""
    names = [name for name in rows[0] if name not in _PASSED_OVER or name in keep]
    lines = [names, ["---"] * len(names), *([_cell(row.get(name)) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else shown(value).replace("|", "\\|").replace("<", "&lt;")
