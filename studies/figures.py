"""What the scores of a study say: means and 95 % intervals over seeds, differences paired by seed, labels that are saved."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from scipy.stats import t as student

from convmae.reports.intervals import Interval


class Cell(NamedTuple):
    """What a run is of: its arm, its share of the labels in percent, its seed."""

    arm: str
    share: float
    seed: int


Scores = Mapping[Cell, float]  # shares, 0 to 1


class Spread(NamedTuple):
    """Values over seeds: their mean, deviation and 95 % interval by Student's t.

    One alone has but a mean. Those that are all the same have no interval, for they don't say how far others would scatter:
    scores of few validation pictures are often the same.
    """

    mean: float
    deviation: float | None
    ends: Interval | None
    seeds: tuple[int, ...]


def spread(values: Mapping[int, float]) -> Spread | None:
    """Returns the mean over seeds and how sure it is; None of no value."""
    known = list(values.values())
    if not known:
        return None
    mean, seeds = statistics.fmean(known), tuple(values)
    if len(known) == 1:
        return Spread(mean, None, None, seeds)
    deviation = statistics.stdev(known)
    if math.isclose(deviation, 0, abs_tol=1e-9):
        return Spread(mean, 0.0, None, seeds)
    half = float(student.ppf(0.975, len(known) - 1)) * deviation / math.sqrt(len(known))
    return Spread(mean, deviation, Interval(mean - half, mean + half), seeds)


def of_arm(scores: Scores, arm: str, share: float) -> Spread | None:
    """Returns an arm's score at a share."""
    return spread({cell.seed: score for cell, score in scores.items() if (cell.arm, cell.share) == (arm, share)})


def difference(scores: Scores, arm: str, other: str, shares: Sequence[float]) -> Spread | None:
    """Returns an arm's score less another's, seed by seed, as a mean over the shares; of seeds that have all of them alone."""
    values = {}
    for seed in dict.fromkeys(cell.seed for cell in scores):
        pairs = [(scores.get(Cell(arm, one, seed)), scores.get(Cell(other, one, seed))) for one in shares]
        gains = [score - base for score, base in pairs if score is not None and base is not None]
        if shares and len(gains) == len(shares):
            values[seed] = statistics.fmean(gains)
    return spread(values)


def labels_needed(curve: Sequence[tuple[int, float]], score: float) -> float | None:
    """Returns with how many labelled pictures a curve of (pictures, score) first reaches a score; None where it never does.

    Between two points it is taken as straight over the logarithm of the pictures. A score that the first point reaches needs
    as many or fewer: then 0.
    """
    if not curve or curve[0][1] >= score:
        return 0.0 if curve else None
    for (few, low), (many, high) in itertools.pairwise(curve):
        if low < score <= high:
            part = (score - low) / (high - low)
            return float(few * (many / few) ** part)
    return None


class Comparison(NamedTuple):
    """Two arms: what the first gains over the other as a mean over all shares, and at each.

    ``by_share`` is of all seeds that have the share, ``together`` of those that ``whole`` is of. ``seconds``: what its
    pretraining took; ``best``: the highest score of the two, so far as it is known; ``lost``: how many runs of the two failed.
    """

    arm: str
    other: str
    whole: Spread | None
    by_share: Mapping[float, Spread]
    together: Mapping[float, Spread]
    seconds: float
    best: float
    lost: int = 0


def compare(
    scores: Scores, arm: str, other: str, shares: Sequence[float], seconds: float, failed: Collection[Cell] = ()
) -> Comparison:
    """Returns what one arm gains over another; ``failed``: the runs that have no score, as they failed."""
    whole = difference(scores, arm, other, shares)
    common = {cell: score for cell, score in scores.items() if whole and cell.seed in whole.seeds}
    known = [score for cell, score in scores.items() if cell.arm in (arm, other)]
    return Comparison(
        arm,
        other,
        whole,
        _by_share(scores, arm, other, shares),
        _by_share(common, arm, other, shares),
        seconds,
        max(known, default=0.0),
        sum(cell.arm in (arm, other) for cell in failed),
    )


def _by_share(scores: Scores, arm: str, other: str, shares: Sequence[float]) -> dict[float, Spread]:
    found = {share: difference(scores, arm, other, [share]) for share in shares}
    return {share: one for share, one in found.items() if one is not None}
