"""How sure a score is: 95 % intervals by the bootstrap over pictures (Efron, doi:10.1214/aos/1176344552)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000  # an end's own error is then a twelfth of the score's standard error
BLOCK = 100  # resamples at a time: their counts of a class's detections stay in a processor's cache
ENDS = (2.5, 97.5)  # percentiles
MEANING = (
    f"95 % intervals by the bootstrap over pictures: the score is computed on {RESAMPLES:,} sets of as many pictures, drawn "
    "from these with replacement, and the interval is what the middle 95 % of them reach. It says how much the score depends "
    "on which pictures happened to be tested. It doesn't say how much another training run would differ, nor what pictures of "
    "another kind would give, and it is too narrow where classes stand on a few pictures."
)
PAIRED = (
    " Both runs are scored on the same draws, so that pictures hard for both cancel out; where the interval of a difference "
    "holds 0, the difference may be chance."
)


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float

    def points(self, sign: str = "") -> str:
        """Returns a share's interval in points of 100; ``sign`` as in a format, "+" for a difference."""
        return f"95\u00a0%: {100 * self.low:{sign}.1f} to {100 * self.high:{sign}.1f}"


def resamples(pictures: int) -> Iterator[NDArray[np.float32]]:
    """Yields how often each picture is drawn, [pictures, BLOCK], until there were RESAMPLES draws of ``pictures`` pictures.

    They follow from the number of pictures alone, the same for every run and, made of integers, on every machine.
    """
    for block in range(RESAMPLES // BLOCK):
        drawn = np.random.default_rng((block, pictures)).integers(pictures, size=(BLOCK, pictures))
        places = drawn + pictures * np.arange(BLOCK)[:, None]
        counts = np.bincount(places.ravel(), minlength=BLOCK * pictures).reshape(BLOCK, pictures)
        yield np.ascontiguousarray(counts.T, dtype=np.float32)


def interval(scores: NDArray[np.floating]) -> Interval | None:
    """Returns the interval of a score from its values on the resamples, those that are nan left out.

    None where they don't differ, as of one picture or of nothing found: then they say nothing.
    """
    known = scores[~np.isnan(scores)]
    return Interval(*np.percentile(known, ENDS).tolist()) if len(np.unique(known)) > 1 else None


def intervals(scores: Mapping[str, NDArray[np.floating]]) -> dict[str, Interval]:
    """Returns the intervals of scores by their names, of those that have one."""
    found = {name: interval(values) for name, values in scores.items()}
    return {name: ends for name, ends in found.items() if ends is not None}


def gains(one: Mapping[str, NDArray], other: Mapping[str, NDArray]) -> dict[str, Interval]:
    """Returns the intervals of the second run's gains over the first, from the values of both on the same draws."""
    return intervals({name: other[name] - values for name, values in one.items()})


def ends(found: Mapping[str, Interval]) -> dict[str, Sequence[float]]:
    """Returns what ``metrics.json`` holds of intervals."""
    return {name: list(one) for name, one in found.items()}
