"""Intervals hold the true value as often as they say, and follow from the number of pictures alone."""

import numpy as np
import pytest

from convmae.reports.intervals import BLOCK, RESAMPLES, Interval, gains, interval, intervals, resamples


def shares(values: np.ndarray) -> np.ndarray:
    """The mean of each resample, by the weights."""
    return np.concatenate([values @ drawn / len(values) for drawn in resamples(len(values))])


def test_draws_are_of_as_many_pictures_and_the_same_each_time() -> None:
    blocks = list(resamples(7))
    assert len(blocks) * BLOCK == RESAMPLES
    for block, again in zip(blocks, resamples(7), strict=True):
        assert block.shape == (7, BLOCK)
        assert (block.sum(axis=0) == 7).all()
        np.testing.assert_array_equal(block, again)
    assert not np.array_equal(blocks[0], blocks[1])
    # Each picture is as often drawn as any other: n draws of n, so once on average, with variance 1 - 1/n.
    every = np.hstack(blocks)
    assert every.mean(axis=1) == pytest.approx(np.ones(7), abs=0.15)
    assert every.var() == pytest.approx(6 / 7, rel=0.1)


def test_an_interval_of_a_share_holds_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        right = (rng.random(80) < 0.7).astype(np.float32)
        low, high = interval(float(right.mean()), shares(right))
        held += low <= 0.7 <= high
    assert 0.91 <= held / 400 <= 0.98  # 0.95, with three standard errors of 0.011; discrete


def test_what_two_runs_share_cancels_out() -> None:
    rng = np.random.default_rng(1)
    one = rng.random(50).astype(np.float32)
    before, after = shares(one), shares(one + np.float32(0.125))
    means = [{"score": float(one.mean())}, {"score": float(one.mean()) + 0.125}]
    gain = gains(means, [{"score": before}, {"score": after}])["score"]
    assert gain.low == pytest.approx(0.125, abs=1e-5)
    assert gain.high == pytest.approx(0.125, abs=1e-5)
    assert gain.points("+") == "95 %: +12.5 to +12.5".replace(" ", "\u00a0")
    alone = interval(float(one.mean()), before)
    assert alone.high - alone.low > 0.1


def test_resamples_that_have_no_score_or_all_the_same_say_nothing() -> None:
    values = np.array([np.nan, *np.linspace(0, 1, 41)])
    error = 1.96 * np.std(values[1:], ddof=1)
    assert interval(0.25, values) == pytest.approx((0.25 - error, 0.25 + error))
    assert intervals({"score": 0.25}, {"score": values})["score"] == pytest.approx((0, 0.25 + error))
    scores = {"none": np.full(3, np.nan), "one picture": shares(np.array([0.5], dtype=np.float32))}
    assert intervals({"none": 0.0, "one picture": 0.5}, scores) == {}


@pytest.mark.parametrize(
    ("ends", "sign", "said"),
    [
        ((-0.0004, 0.0004), "+", "0.0 to 0.0"),
        ((-0.0123, 0.0004), "+", "-1.2 to 0.0"),
        ((0.0006, 0.25), "+", "+0.1 to +25.0"),
        ((0.0, 1.0), "", "0.0 to 100.0"),
    ],
)
def test_ends_read_in_points_and_zero_has_no_sign(ends: tuple[float, float], sign: str, said: str) -> None:
    assert Interval(*ends).points(sign) == f"95 %: {said}".replace(" ", "\u00a0")
