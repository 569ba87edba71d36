"""Shares of the labelled pictures: nested, the same everywhere, another for another seed, and of every class."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter

import pytest

from convmae.engine.shares import take_share

NAMES = [f"deep/bild {number} ä.jpg" for number in range(40)]


def share(part: float, seed: int = 0, names: list[str] = NAMES) -> list[str]:
    return take_share(names, part, seed, str)


@pytest.mark.parametrize("seed", range(5))
def test_a_larger_share_holds_a_smaller_one_and_has_as_many_pictures_as_it_says(seed: int) -> None:
    drawn = [share(part, seed) for part in (0.01, 0.1, 0.25, 0.5, 0.99, 1)]
    assert [len(one) for one in drawn] == [1, 4, 10, 20, 40, 40]
    for smaller, larger in itertools.pairwise(drawn):
        assert set(smaller) <= set(larger)
        assert smaller == [name for name in NAMES if name in smaller]  # in the order that they had


def test_seeds_draw_shares_of_their_own_in_which_pictures_come_about_equally_often() -> None:
    assert share(0.5, 0) != share(0.5, 1)
    counts = Counter(name for seed in range(200) for name in share(0.25, seed))
    assert len(counts) == len(NAMES)
    assert 20 < min(counts.values()) <= max(counts.values()) < 85  # 50 is expected, 6 the deviation


def test_a_share_depends_on_the_names_alone() -> None:
    assert set(share(0.25, 3, NAMES[::-1])) == set(share(0.25, 3))
    decomposed = [unicodedata.normalize("NFD", name) for name in NAMES]  # as macOS writes names
    assert decomposed != NAMES
    assert [unicodedata.normalize("NFC", name) for name in share(0.25, 3, decomposed)] == share(0.25, 3)
    # What this was when it was written: shares of one run and of the next must not differ by the release.
    assert share(0.1) == [NAMES[number] for number in FIXED]


FIXED = (0, 36, 38, 39)


def test_of_each_class_as_large_a_part_is_taken_and_one_picture_at_least() -> None:
    labels = {name: number % 2 if number < 8 else 2 for number, name in enumerate(NAMES)}  # 4, 4 and 32 pictures
    for part, counts in {0.5: [2, 2, 16], 0.25: [1, 1, 8], 0.05: [1, 1, 2]}.items():
        drawn = take_share(NAMES, part, 0, str, labels.__getitem__)
        assert [Counter(map(labels.__getitem__, drawn))[label] for label in range(3)] == counts


def test_names_that_are_no_utf_8_are_names() -> None:
    assert len(share(0.5, 0, ["a\udcff", "b"])) == 1
