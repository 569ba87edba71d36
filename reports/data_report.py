"""What a check of data found, on the terminal and on its page: the part that tasks share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from convmae.engine.faults import SHOWN, Effect, Fault, by_kind, spread
from convmae.reports.page import Number, Page
from convmae.reports.plots import histogram

LISTED = 500  # faults on the page; the JSON file has all
SAMPLES = 6  # pictures of a split that are drawn, and as many of those at fault
MODES = {
    "L": "grey",
    "1": "black and white",
    "P": "palette",
    "I;16": "16 bit grey",
    "I;16B": "16 bit grey",
    "I": "grey of signed or 32 bit integers",
    "F": "grey of floats",
    "RGBA": "RGB with transparency",
}


Image = TypeVar("Image")


class Split(Protocol):
    """A part of the data that was checked."""

    @property
    def name(self) -> str: ...
    @property
    def faults(self) -> Sequence[Fault]: ...
    @property
    def modes(self) -> Counter[str]:
        """How many pictures that were looked at and in order have each of Pillow's modes."""

    def title(self) -> str:
        """Returns what the split holds, and where."""


def stopping(splits: Sequence[Split]) -> list[Fault]:
    """Returns the faults that training would refuse."""
    return [fault for split in splits for fault in split.faults if fault.effect is Effect.STOPS]


def summary(splits: Sequence[Split]) -> list[str]:
    """Returns the lines for the terminal: each split, its kinds of faults, and the first faults of each kind."""
    lines = []
    for split in splits:
        lines.append(f"{split.name} data: {split.title()}")
        if split.modes:
            lines.append(f"  {split.modes.total()} pictures looked at and in order: {describe_modes(split.modes)}")
        for kind, faults in by_kind(split.faults).items():
            lines.append(f"  {len(faults)} {kind} ({faults[0].effect.value})")
            lines += [f"    {fault}" for fault in faults[:SHOWN]]
            lines += [f"    and {len(faults) - SHOWN} more"] * (len(faults) > SHOWN)
    count = len(stopping(splits))
    lines.append(f"{count} fault{'s' * (count != 1)} would stop training" if count else "nothing would stop training")
    return lines


def write_page(
    subtitle: str,
    splits: Sequence[Split],
    counts: Sequence[Number],
    add: Callable[[Page], None],
    numbers: Mapping[str, Mapping[str, Any]],
    work_dir: Path,
) -> list[Path]:
    """Writes ``metrics.json`` and ``report/index.html`` of a check; returns the paths.

    The page opens with how many faults there are, the ``counts`` and the faults; ``add`` adds what a task shows of its data.
    ``numbers`` are a split's, by its name.
    """
    stops = len(stopping(splits))
    notes = sum(len(split.faults) for split in splits) - stops
    page = Page("Data check", subtitle)
    page.headline(
        [
            Number("Faults", f"{stops:,}", "that would stop training"),
            Number("Other remarks", f"{notes:,}", "what is left out, and what is used as it is"),
            *counts,
        ]
    )
    add_faults(page, splits)
    add(page)
    return page.save(numbers, work_dir)


def add_faults(page: Page, splits: Sequence[Split]) -> None:
    """Adds a table of the kinds of faults and one of each fault."""
    kinds = [(split, kind, faults) for split in splits for kind, faults in by_kind(split.faults).items()]
    if not kinds:
        page.text("Faults", "None was found.")
        return
    page.table(
        "Faults",
        ["kind", "split", "count", "effect"],
        [[kind, split.name, len(faults), faults[0].effect.value] for split, kind, faults in kinds],
    )
    listed = [[kind, split.name, str(fault)] for split, kind, faults in kinds for fault in faults]
    shown = f"{min(len(listed), LISTED):,} of {len(listed):,}; metrics.json beside the report lists all."
    page.table("Each fault", ["kind", "split", "what was found"], listed[:LISTED], shown)


def add_splits(page: Page, columns: Mapping[str, Mapping[str, str]]) -> None:
    """Adds a table with a column a split: what there is of each thing, the same things in all."""
    things = next(iter(columns.values()), {})
    rows = [[thing, *(column[thing] for column in columns.values())] for thing in things]
    page.table("Splits", ["", *columns], rows, sortable=False)


def add_sizes(page: Page, sides: Mapping[str, NDArray]) -> None:
    """Adds how long the longer sides of the pictures are, by split; nothing of none."""
    if sides:
        page.figure("Sizes of pictures", histogram(sides, "long side, px"), "Share of the split's pictures.")


def remarked(split: Split, key: Callable[[Any], Hashable] = lambda image: image) -> dict[Hashable, list[str]]:
    """Returns the kinds of faults of each picture that has any, each kind once; ``key`` is what stands for a picture."""
    kinds: dict[Hashable, list[str]] = {}
    for fault in split.faults:
        if fault.image is not None:
            kinds.setdefault(key(fault.image), []).append(fault.kind)
    return {image: list(dict.fromkeys(found)) for image, found in kinds.items()}


def samples(
    name: str, in_order: Sequence[Image], at_fault: Sequence[Image] = ()
) -> Iterator[tuple[str, list[Image], str]]:
    """Yields title, some pictures and of how many they are, for a split's pictures in order and for those with remarks."""
    for title, images in ((f"Samples, {name}", in_order), (f"Pictures with remarks, {name}", at_fault)):
        if chosen := list(spread(images, SAMPLES)):
            yield title, chosen, f"{len(chosen)} of {len(images):,}, spread evenly."


def fault_rows(split: Split, name: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Returns every fault for a JSON file; ``name`` gives what a file can hold of a fault's picture."""
    return [
        {
            "kind": fault.kind,
            "effect": fault.effect.value,
            "image": None if fault.image is None else name(fault.image),
            "message": str(fault),
        }
        for fault in split.faults
    ]


def describe_modes(modes: Counter[str]) -> str:
    """Returns how many pictures have each mode, the most frequent first."""
    return ", ".join(f"{count:,} {MODES.get(mode, mode)}" for mode, count in modes.most_common())
