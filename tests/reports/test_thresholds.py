"""Precision, recall and F1 at each confidence, by hand; and the confidence that is marked."""

import numpy as np
import pytest

from convmae.reports.thresholds import LEVELS, Threshold, describe


def threshold(right: list[float], wrong: list[float], objects: int) -> Threshold:
    levels = np.arange(LEVELS) / 100
    counts = [np.array([[sum(score >= level for score in scores) for level in levels]]) for scores in (right, wrong)]
    return Threshold(*counts, np.array([objects]))


def test_the_best_f1_is_marked() -> None:
    # At 0.6: 2 right, 1 wrong of 4 objects, F1 4/7. At 0.3: 3 right, 1 wrong, 6/8. At 0.2: 3 right, 4 wrong, 6/11.
    found = threshold([0.9, 0.6, 0.3], [0.7, 0.2, 0.2, 0.2], 4)
    assert found.confidence == 0.3
    assert found.what == "best F1"
    for level, values in ((60, (4 / 7, 2 / 3, 0.5)), (30, (6 / 8, 0.75, 0.75)), (20, (6 / 11, 3 / 7, 0.75))):
        assert [of()[level] for of in (found.f1, found.precision, found.recall)] == pytest.approx(values)
    assert np.isnan(found.precision()[95])
    assert found.describe(30) == "F1 75.0 %, precision 75.0 %, recall 75.0 %: 3 right, 1 missed, 1 wrong"


def test_of_equal_ones_the_surest_is_marked() -> None:
    assert threshold([0.8], [], 1).confidence == 0.8


def test_where_nothing_is_right_as_many_are_marked_as_there_are_objects() -> None:
    found = threshold([], [0.9, 0.5, 0.4, 0.1], 2)
    assert (found.confidence, found.what) == (0.5, "as many as objects")
    assert threshold([], [0.4], 7).confidence == 0.4
    assert threshold([], [], 7).confidence == 1.0
    assert threshold([], [0.4], 0).confidence == 1.0


def test_nothing_of_nothing_is_a_dash() -> None:
    assert describe(0, 0, 0) == "F1 –, precision –, recall –: 0 right, 0 missed, 0 wrong"
