"""A share of the training pictures, for runs with fewer labels: the same in all runs, a larger one around a smaller."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

from convmae.engine.log import log

T = TypeVar("T")


def take_share(
    pictures: Sequence[T],
    share: float,
    seed: int,
    name: Callable[[T], str],
    group: Callable[[T], int] = lambda picture: 0,
) -> list[T]:
    """Returns the pictures that ``data.share`` and ``data.share_seed`` choose, in their order; 1 is all.

    ``name`` tells a picture's name within its split, from which and the seed alone it follows which come first; of each
    ``group`` (a class, in classification) as many are taken, and one at least.
    """
    if share == 1:
        return list(pictures)
    groups: dict[int, list[int]] = {}
    for place, picture in enumerate(pictures):
        groups.setdefault(group(picture), []).append(place)
    chosen: list[int] = []
    for places in groups.values():
        ranked = sorted(places, key=lambda place: _rank(seed, name(pictures[place])))
        chosen += ranked[: max(1, round(share * len(places)))]
    return [pictures[place] for place in sorted(chosen)]


def log_share(taken: int, count: int, share: float, seed: int) -> None:
    """Logs how many of the training pictures a run uses, where these are not all."""
    if share != 1:
        log.info(
            f"data: {taken} of {count} training pictures are used, data.share={share:g} drawn by data.share_seed={seed}"
        )


def _rank(seed: int, name: str) -> bytes:
    """A number as good as drawn, the same on every machine: in whichever of Unicode's forms a system writes names."""
    text = f"{seed} {unicodedata.normalize('NFC', name)}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
