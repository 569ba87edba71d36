"""Figures against scipy's paired t-test and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from convmae.studies.figures import Cell, Scores, compare, difference, labels_needed, of_arm, spread

RNG = np.random.default_rng(0)
SHARES = (10.0, 100.0)
SCORES = {
    Cell(arm, share, seed): float(RNG.uniform(0.2, 0.6))
    for arm in ("one", "other")
    for share in SHARES
    for seed in range(5)
}


def values(scores: Scores, arm: str, share: float) -> list[float]:
    return [score for cell, score in scores.items() if (cell.arm, cell.share) == (arm, share)]


def test_an_interval_is_that_of_a_t_test() -> None:
    expected = stats.ttest_1samp(values(SCORES, "one", 10.0), 0).confidence_interval()
    found = of_arm(SCORES, "one", 10.0)
    assert found
    assert found.ends == pytest.approx((expected.low, expected.high))
    assert found.deviation == pytest.approx(np.std(values(SCORES, "one", 10.0), ddof=1))


def test_values_that_are_the_same_have_no_interval() -> None:
    one = spread({0: 0.1 + 0.2, 1: 0.3, 2: 0.3})
    assert one
    assert (one.deviation, one.ends, one.seeds) == (0.0, None, (0, 1, 2))


def test_what_is_averaged_is_of_the_same_seeds() -> None:
    scores = {cell: score for cell, score in SCORES.items() if cell != Cell("one", 100.0, 3)}
    found = compare(scores, "one", "other", SHARES, 0.0, [Cell("one", 100.0, 3), Cell("third", 10.0, 0)])
    assert found.whole
    assert found.whole.seeds == found.together[10.0].seeds == (0, 1, 2, 4)
    assert found.whole.mean == pytest.approx(np.mean([one.mean for one in found.together.values()]))
    assert found.by_share[10.0].seeds == (0, 1, 2, 3, 4)
    assert found.lost == 1


@pytest.mark.parametrize("shares", [SHARES, SHARES[:1]])
def test_differences_are_paired_by_seed(shares: tuple[float, ...]) -> None:
    means = [np.mean([values(SCORES, arm, share) for share in shares], axis=0) for arm in ("one", "other")]
    expected = stats.ttest_rel(*means).confidence_interval()
    shuffled = dict(sorted(SCORES.items(), key=lambda item: (-item[0].seed, item[0].arm)))  # whatever the order
    for scores in (SCORES, shuffled):
        found = difference(scores, "one", "other", shares)
        assert found
        assert found.mean == pytest.approx(np.mean(means[0] - means[1]))
        assert found.ends == pytest.approx((expected.low, expected.high))


def test_a_seed_counts_once_it_has_all_shares_of_both_arms() -> None:
    part = {cell: score for cell, score in SCORES.items() if cell != Cell("other", 100.0, 2)}
    found = difference(part, "one", "other", SHARES)
    assert found
    assert found.seeds == (0, 1, 3, 4)
    assert difference(part, "one", "third", SHARES) is None
    one = compare(part, "one", "other", SHARES, 60.0)
    assert [len(gain.seeds) for gain in one.by_share.values()] == [5, 4]
    assert one.best == max(part.values())


def test_one_seed_has_no_interval() -> None:
    assert spread({}) is None
    one = spread({7: 0.3})
    assert one
    assert (one.mean, one.deviation, one.ends, one.seeds) == (0.3, None, None, (7,))


def test_labels_are_read_off_the_curve() -> None:
    curve = [(10, 0.1), (100, 0.3), (1000, 0.2), (10_000, 0.5)]
    assert labels_needed(curve, 0.2) == pytest.approx(10 * 10**0.5)  # half way over the logarithm
    assert labels_needed(curve, 0.3) == pytest.approx(100)
    assert labels_needed(curve, 0.4) == pytest.approx(1000 * 10 ** (2 / 3))  # past the dip
    assert labels_needed(curve, 0.51) is None
    assert labels_needed(curve, 0.1) == labels_needed(curve, 0.01) == 0
    assert labels_needed([], 0.1) is None
