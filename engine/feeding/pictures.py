"""The training pictures of a run by their number: from their files, or from memory once they were read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.engine.machine.allowance import free_memory, from_here
from convmae.engine.pictures.images import (
    REDUCTIONS,
    Box,
    Picture,
    in_reduced,
    measure,
    read_crop,
    read_image,
    reduction,
    size_of,
)
from convmae.engine.pictures.reading import RGB, Reading

_ROOM = 0.8  # part of the free memory that pictures may take; the rest is for the training


class Crops(NamedTuple):
    """The squares of ``size`` pixels that crops become: of a part of a picture's area from ``part`` on, of sides 3:4 to 4:3."""

    size: int
    part: float

    def reductions(self, height: int, width: int) -> tuple[int, int]:
        """Returns the least and the greatest reduction at which such crops of a picture are decoded."""
        longest = min(height, width)
        shortest = min(longest, int(math.sqrt(self.part * height * width * 3 / 4)))
        return reduction(shortest, self.size), reduction(longest, self.size)


class Pictures:
    """Reads pictures as ``read_image`` and ``read_crop`` do; with ``keep="memory"`` each from its file once, to the same bytes.

    What is kept lies in memory that all loader processes share, however they start, and which the system frees as the last
    of them ends. ``crops``: how they are cut; None: they are read whole. Raises UserError for pictures that don't fit; all
    processes of a run make theirs together.
    """

    def __init__(
        self, paths: Sequence[Path], reading: Reading = RGB, keep: str = "none", crops: Crops | None = None
    ) -> None:
        self.paths, self.reading = paths, reading
        self.kept = _Kept(paths, reading, crops) if keep == "memory" else None

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Picture:
        """Returns a whole picture, as ``read_image`` does."""
        if self.kept is None:
            return read_image(self.paths[index], self.reading)
        found = self.kept.get(index, 1)
        if found is None:
            picture = read_image(self.paths[index], self.reading)
            self.kept.put(index, 1, picture)
            return picture
        return Image.fromarray(found.permute(1, 2, 0).numpy()) if self.reading.channels == 3 else found.clone()

    def read_crop(self, index: int, choose: Callable[[int, int], Box], size: int) -> tuple[Picture, Box]:
        """Returns a picture as fine as a crop of ``size`` pixels needs, and the crop in it, as ``read_crop`` does."""
        height, width = self.kept.sides[index].tolist() if self.kept else (0, 0)
        if self.kept is None or not height:
            return read_crop(self.paths[index], choose, size, self.reading)
        crop = choose(height, width)
        by = reduction(min(crop.height, crop.width), size) if self.kept.reducible[index] else 1
        found = self.kept.get(index, by)
        if found is not None:
            return found, in_reduced(crop, (width, height), size_of(found))
        picture, inside = read_crop(self.paths[index], lambda *_: crop, size, self.reading)
        self.kept.put(index, by, picture)
        return picture, inside


class _Kept:
    """Room for each picture at each reduction that it may be decoded at, in shared memory.

    ``sides``: height and width of each [N, 2], 0 of those that can't be looked at, which are read from their files.
    """

    def __init__(self, paths: Sequence[Path], reading: Reading, crops: Crops | None) -> None:
        self.channels = reading.channels
        self.sides: NDArray[np.int32] = np.zeros((len(paths), 2), np.int32)
        self.reducible: NDArray[np.bool_] = np.zeros(len(paths), np.bool_)
        self.places: NDArray[np.int64] = np.full((len(paths), len(REDUCTIONS)), -1)  # of the first byte; -1: not kept
        free = from_here(free_memory())  # asked by all processes before one takes any
        most, size = int(_ROOM * min(free) / len(free)), 0
        for index, path in enumerate(paths):
            size = self._plan(index, path, reading, crops, size)
            if size > most:
                raise _too_large(size * len(paths) // (index + 1), len(paths), len(free), min(free))
        self.bytes = _shared(size)
        self.filled = _shared(self.places.size).view(self.places.shape)
        log.info(f"data: the pictures are kept in memory as they are read, {size / 2**30:.2f} GiB when all are")

    def _plan(self, index: int, path: Path, reading: Reading, crops: Crops | None, place: int) -> int:
        """Finds the room of a picture from ``place`` on; returns where it ends."""
        try:
            (width, height), self.reducible[index] = measure(path, reading)
        except UserError:  # is told where it is read, as without
            return place
        self.sides[index] = height, width
        least, most = crops.reductions(height, width) if crops and self.reducible[index] else (1, 1)
        for number, by in enumerate(REDUCTIONS):
            if least <= by <= most:
                self.places[index, number] = place
                place += self.channels * -(-height // by) * -(-width // by)
        return place

    def get(self, index: int, by: int) -> Tensor | None:
        """Returns a picture as bytes [C, H, W], in RGB the channels last in memory as Pillow has them; None: not there yet."""
        number = REDUCTIONS.index(by)
        return self._room(index, number) if self.filled.numpy()[index, number] else None

    def put(self, index: int, by: int, picture: Picture) -> None:
        """Keeps a picture, if there is room for it."""
        number = REDUCTIONS.index(by)
        height, width = -(-self.sides[index] // by)
        if self.places[index, number] < 0 or size_of(picture) != (width, height):
            return
        room = self._room(index, number)
        # Two processes may do so at once: they write the same bytes.
        if isinstance(picture, Image.Image):
            room.permute(1, 2, 0).numpy()[:] = np.asarray(picture)
        else:
            room.copy_(picture)
        self.filled[index, number] = 1

    def _room(self, index: int, number: int) -> Tensor:
        height, width = (-(-side // REDUCTIONS[number]) for side in self.sides[index].tolist())
        shape, strides = (self.channels, height, width), (height * width, width, 1)
        return self.bytes.as_strided(
            shape, (1, 3 * width, 3) if self.channels == 3 else strides, self.places[index, number]
        )


def _shared(size: int) -> Tensor:
    """Returns zeros that processes share, [size] bytes: a file in memory that has no name any more."""
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))


def _too_large(needed: int, pictures: int, processes: int, free: int) -> UserError:
    each = f" in each of the {processes} training processes of this node" if processes > 1 else ""
    return UserError(
        f"data.keep is memory, and {pictures} pictures take about {needed / 2**30:.1f} GiB decoded{each}; here are "
        f"{free / 2**30:.1f} GiB of memory that can be shared, of which they may take {_ROOM:.0%}. Take data.keep=none, or "
        "pictures no larger than their crops need; /dev/shm may be what is small (docker: --shm-size)."
    )
