"""Randomness as a function: every draw follows from the seed and from what it is drawn for, never from what ran before.

A resumed run then equals an uninterrupted one, the number of loader processes changes nothing, and two training processes
see what one with the same global batch sees.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

INIT, SAMPLE, STEP = 0, 1, 2  # what a draw is for


@dataclass(frozen=True)
class SampleKey:
    """A picture in a certain pass over the data."""

    epoch: int
    index: int


def seed_all(seed: int, *purpose: int) -> None:
    """Sets the global generators of ``random``, ``numpy.random`` and ``torch`` from a seed and a key of integers."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=20).digest()
    random.seed(digest)
    np.random.seed(np.frombuffer(digest[:16], dtype=np.uint32))
    number = int.from_bytes(digest[16:], "little")
    torch.default_generator.manual_seed(number)  # torch.manual_seed asks after every kind of device: 0.2 ms a sample
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Has the global generators go on after its block as if nothing had been drawn in it."""
    own, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numbers)


class SeededDataset(Dataset):
    """A data set whose sample is a function of (seed, epoch, index): the global generators are set before each is made."""

    metainfo: dict[str, Any] = {}  # noqa: RUF012  (mmengine's loops look for it)

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Returns what a sample is called in messages: the data set's ``name(index)``, where it has one."""
        return str(self.dataset.name(index)) if hasattr(self.dataset, "name") else f"sample {index}"

    def __getitem__(self, key: SampleKey) -> Any:
        seed_all(self.seed, SAMPLE, key.epoch, key.index)
        return self.dataset[key.index]


class StepSampler(Sampler[list[SampleKey]]):
    """Endless batches of sample keys, one after another part of each step, starting at any step.

    All pictures are passed through in a new order each epoch; a batch may reach into the next epoch. ``batch_size`` counts
    over all processes and parts; each process yields ``parts`` lists of ``batch_size / (world * parts)`` keys a step.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, *, parts: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        if length < 1:
            raise ValueError("found no samples, expected at least one")
        if batch_size < 1 or batch_size % (parts * world):
            raise ValueError(f"a batch of {batch_size} does not divide by {world} processes times {parts} parts")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.parts, self.rank, self.world = parts, rank, world
        self.start_step = 0
        self._known: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))  # the last epoch's order

    def __iter__(self) -> Iterator[list[SampleKey]]:
        step = self.start_step
        while True:
            for part in range(self.parts):
                yield self.keys(step, part, self.rank)
            step += 1

    def keys(self, step: int, part: int, rank: int) -> list[SampleKey]:
        """Returns the samples of one part of a step in one process."""
        share = self.batch_size // (self.parts * self.world)
        first = step * self.batch_size + (part * self.world + rank) * share
        return [
            SampleKey(position // self.length, int(self._order(position // self.length)[position % self.length]))
            for position in range(first, first + share)
        ]

    def samples(self, step: int) -> list[int]:
        """Returns the indices of a step's samples, over all parts and processes."""
        every = itertools.product(range(self.parts), range(self.world))
        return [key.index for part, rank in every for key in self.keys(step, part, rank)]

    def _order(self, epoch: int) -> np.ndarray:
        if self._known[0] != epoch:
            self._known = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.length)
        return self._known[1]
