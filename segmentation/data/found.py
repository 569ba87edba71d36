"""What was found in a split by looking at its pictures and label maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convmae.engine.faults import Fault
from convmae.engine.pictures.reading import RGB, Reading
from convmae.segmentation.data.layout import Pair


@dataclass
class Found:
    """What a split holds. Counts are of the pairs that are ``good``: looked at and in order."""

    name: str
    images: Path  # the folders
    labels: Path
    pairs: list[Pair] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    good: list[Pair] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width, height
    modes: Counter[str] = field(default_factory=Counter)  # Pillow's names
    label_modes: Counter[str] = field(default_factory=Counter)
    decoded: int = 0  # pictures, not their headers alone
    contents: dict[Path, bytes] = field(default_factory=dict)  # of the pictures that were decoded
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # [num_classes]
    pictures: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(0, np.int64)
    )  # [num_classes], pictures with it
    ignored: int = 0  # pixels
    reading: Reading = RGB
    # Of all label maps that could be read, those with labels beyond the class list included:
    maps: int = 0
    values: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))  # [256], pixels of each value
    most_values: int = 0  # in one label map
    colours: dict[int, tuple[tuple[int, ...], Path]] = field(
        default_factory=dict
    )  # of each value, and who has it first

    def paths(self) -> list[Path]:
        """Returns the files of the pictures."""
        return [pair.image for pair in self.pairs]

    def describe(self) -> str:
        """Returns one line for the log and the report."""
        ordered = sorted(self.sizes, key=lambda size: size[0] * size[1])
        sizes = " to ".join(f"{width} x {height}" for width, height in dict.fromkeys([*ordered[:1], *ordered[-1:]]))
        part = "all decoded" if self.decoded == len(self.pairs) else f"{self.decoded} decoded"
        return (
            f"{len(self.pairs)} pictures with label maps ({part}), {sizes or 'no'} pixels, {(self.pixels > 0).sum()} of "
            f"{len(self.pixels)} classes occur, {100 * self.ignored_share():.1f} % of pixels ignored"
        )

    def title(self) -> str:
        """Returns what the split holds, and where."""
        return f"{self.describe()} ({self.images}, {self.labels})"

    def ignored_share(self) -> float:
        """Returns the share of the pixels that are ignored."""
        return self.ignored / max(int(self.pixels.sum()) + self.ignored, 1)
