"""What is in plain pictures and what is wrong with them, found by reading every one: for tasks without other files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from convmae.engine.errors import UserError
from convmae.engine.faults import UNREADABLE, Effect, Fault, as_fault, spread
from convmae.engine.pictures.duplicates import content_of
from convmae.engine.pictures.images import Look, look_at, read_image
from convmae.engine.pictures.limits import in_turn
from convmae.engine.pictures.reading import RGB, Reading
from convmae.engine.pictures.value_ranges import check_ranges

_CHUNK = 64  # pictures that a thread takes at a time


@dataclass
class PictureCheck:
    """A split of plain pictures. Counts are of those that are ``good``: read and in order.

    ``classes``: how many pictures each class has, where there are classes.
    """

    name: str
    folder: Path
    reading: Reading = RGB
    paths: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    good: list[Path] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # width, height
    modes: Counter[str] = field(default_factory=Counter)  # Pillow's names
    classes: dict[str, int] = field(default_factory=dict)
    contents: dict[Path, bytes] = field(default_factory=dict)  # of each picture that is good

    def title(self) -> str:
        """Returns what the split holds, and where."""
        of = f" of {len(self.classes)} classes" if self.classes else ""
        sides = describe_range(np.array([max(size) for size in self.sizes.elements()]))
        return f"{len(self.paths):,} pictures{of}, long side {sides} pixels ({self.folder})"


def read_all(split: PictureCheck, count: int = 0) -> None:
    """Reads ``count`` pictures of a split, spread evenly (0: all), and adds what is in them and what is wrong."""
    chosen = spread(split.paths, count or len(split.paths))
    looks = tqdm(_looks(chosen, split.reading), f"{split.name} pictures", len(chosen), leave=False, disable=None)
    for path, seen in zip(chosen, looks, strict=True):
        if isinstance(seen, Fault):
            split.faults.append(seen)
            continue
        look, split.contents[path] = seen
        split.good.append(path)
        split.sizes[look.size] += 1
        split.modes[look.mode] += 1
        if look.turned:
            message = f"{path} is turned as its EXIF data says."
            split.faults.append(Fault("pictures turned by EXIF data", message, Effect.NOTE, path))
    check_ranges(split.good, split.reading, split.faults.append, complete=not count)


def describe_range(values: NDArray) -> str:
    """Returns the smallest, the largest and the median value, or a dash where there is none."""
    if not len(values):
        return "–"
    low, middle, high = (f"{value:,.0f}" for value in np.quantile(values, (0, 0.5, 1)))
    return f"{low} to {high}, median {middle}" if low != high else low


def _looks(paths: Sequence[Path], reading: Reading) -> Iterator[tuple[Look, bytes] | Fault]:
    def examine(path: Path) -> tuple[Look, bytes] | Fault:
        try:
            look = look_at(path, reading)
            with in_turn(look.size):
                return look, content_of(read_image(path, reading))
        except UserError as error:
            fault = as_fault(error, UNREADABLE)
            fault.image = path
            return fault

    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor() as pool:  # decoding and waiting for a disk both let other threads run
        for found in pool.map(lambda chunk: [examine(path) for path in chunk], chunks):
            yield from found
