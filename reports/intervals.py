"""How sure a score is: 95 % intervals by the bootstrap's standard error over pictures (Efron and Tibshirani 1993, ch. 12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmae.engine.text import decimals

RESAMPLES = 1000  # the standard error is then known to 2 %
BLOCK = 100  # resamples at a time: their counts of a class's detections stay in a processor's cache
ERRORS = 1.96  # standard errors to either side that hold 95 % of a normal distribution
ANY_SCORE = (
    f"95 % intervals by the bootstrap over pictures: {ERRORS} standard errors to either side, the error being the score's "
    f"deviation over {RESAMPLES:,} sets of as many pictures, drawn from these with replacement. It says how much the score "
    "depends on which pictures happened to be tested: the mean over many sets of as many pictures lies within. It doesn't say "
    "how much another training run would differ, nor what pictures of another kind, or many more, would give."
)
MEANING = f"{ANY_SCORE} Where classes have few objects, AP is too high."
PAIRED = (
    " All runs are scored on the same draws, so that pictures hard for all of them cancel out; where the interval of a "
    "difference holds 0, the difference may be chance."
)


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float

    def points(self, sign: str = "") -> str:
        """Returns a share's interval in points of 100, on one line; ``sign`` as in a format, "+" for a difference."""
        low, high = (decimals(100 * end, 1, sign) for end in self)
        return f"95 %: {low} to {high}".replace(" ", "\u00a0")


def resamples(pictures: int) -> Iterator[NDArray[np.float32]]:
    """Yields how often each picture is drawn, [pictures, BLOCK], until there were RESAMPLES draws of ``pictures`` pictures.

    They follow from the number of pictures alone, the same for every run and, made of integers, on every machine.
    """
    for block in range(RESAMPLES // BLOCK):
        drawn = np.random.default_rng((block, pictures)).integers(pictures, size=(BLOCK, pictures))
        places = drawn + pictures * np.arange(BLOCK)[:, None]
        counts = np.bincount(places.ravel(), minlength=BLOCK * pictures).reshape(BLOCK, pictures)
        yield np.ascontiguousarray(counts.T, dtype=np.float32)


def interval(score: float, drawn: NDArray[np.floating]) -> Interval | None:
    """Returns the interval of a score from its values on the resamples, those that are nan left out.

    None where they don't differ, as of one picture or of nothing found: then they say nothing.
    """
    known = drawn[~np.isnan(drawn)]
    if len(np.unique(known)) < 2:
        return None
    error = ERRORS * float(known.std(ddof=1, dtype=np.float64))
    return Interval(score - error, score + error)


def intervals(scores: Mapping[str, float], drawn: Mapping[str, NDArray[np.floating]]) -> dict[str, Interval]:
    """Returns the intervals, within 0..1, of the scores that have one, from their values on the resamples."""
    found = {name: interval(scores[name], values) for name, values in drawn.items()}
    return {name: Interval(max(one.low, 0.0), min(one.high, 1.0)) for name, one in found.items() if one is not None}


def gains(scores: Sequence[Mapping[str, float]], drawn: Sequence[Mapping[str, NDArray]]) -> dict[str, Interval]:
    """Returns the intervals of the second run's gains over the first, from the values of both on the same draws."""
    (before, after), (one, other) = scores, drawn
    found = {name: interval(after[name] - before[name], other[name] - one[name]) for name in one}
    return {name: ends for name, ends in found.items() if ends is not None}


def with_interval(note: str, found: Interval | None) -> str:
    """Returns what is said of a share, and its interval where it has one."""
    return f"{note}; {found.points()}" if found else note


def ends(found: Mapping[str, Interval]) -> dict[str, Sequence[float]]:
    """Returns what ``metrics.json`` holds of intervals."""
    return {name: list(one) for name, one in found.items()}
