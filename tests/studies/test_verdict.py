"""From figures that are made up to the sentence that they carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from convmae.reports.intervals import Interval
from convmae.studies.figures import Cell, Comparison, compare
from convmae.studies.verdict import verdict

SHARES = (10.0, 100.0)


def made(
    gains: Mapping[float, Sequence[float]], base: float = 0.3, seconds: float = 0.0, shares: Sequence[float] = SHARES
) -> Comparison:
    """Gains over scratch in points, by share and seed."""
    scores = {}
    for share, of_share in gains.items():
        for seed, gain in enumerate(of_share):
            scores[Cell("scratch", share, seed)] = base + 0.02 * seed
            scores[Cell("mine", share, seed)] = base + 0.02 * seed + gain / 100
    return compare(scores, "mine", "scratch", shares, seconds)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (
            made({10.0: (5, 6, 7), 100.0: (1, 1, 1)}, seconds=5400),
            "Yes, mine pays against scratch: +3.5 points of mask AP on average over the shares of labels (+6.0 at 10 %, +1.0 "
            "at 100 %), 95\xa0%:\xa0+2.3\xa0to\xa0+4.7, 3 seeds, for 1 h 30 min of pretraining.",
        ),
        (
            made({10.0: (-5, -6, -7), 100.0: (-1, -1, -1)}, seconds=5400),
            "No, mine does not pay against scratch: -3.5 points of mask AP on average over the shares of labels (-1.0 at 100 "
            "%, -6.0 at 10 %), 95\xa0%:\xa0-4.7\xa0to\xa0-2.3, 3 seeds.",
        ),
        (
            made({10.0: (0.1, -0.1, 0.0), 100.0: (0.0, 0.1, 0.2)}),
            "No, mine does not pay against scratch, a gain of one point is left out: +0.1 points of mask AP on average over "
            "the shares of labels (+0.1 at 100 %, 0.0 at 10 %), 95\xa0%:\xa0-0.1\xa0to\xa0+0.2, 3 seeds.",
        ),
        (
            made({10.0: (9, -3, 4), 100.0: (1, 1, 1)}),
            "Whether mine pays against scratch can't be told from these 3 seeds: +2.2 points of mask AP on average over the "
            "shares of labels (+3.3 at 10 %, +1.0 at 100 %), 95\xa0%:\xa0-5.3\xa0to\xa0+9.7.",
        ),
        (
            made({10.0: (9,), 100.0: (1,)}),
            "Whether mine pays against scratch can't be told from one seed (+5.0 points of mask AP on average over the shares "
            "of labels (+9.0 at 10 %, +1.0 at 100 %), without an interval).",
        ),
        (
            made({10.0: (2, 2.1, 2.2)}, shares=SHARES[:1]),
            "Yes, mine pays against scratch: +2.1 points of mask AP at 10 % of the labels, 95\xa0%:\xa0+1.9\xa0to\xa0+2.3, "
            "3 seeds.",
        ),
        (
            made({10.0: (0, 0, 0), 100.0: (0, 0, 0)}, base=-0.04 + 0.0001),
            "Whether mine pays against scratch can't be told, as neither learnt anything (0.0 % at best): train for more "
            "steps.",
        ),
        (
            made({10.0: (9, 8, 9)}),
            "Whether mine pays against scratch can't be told yet, as no seed has run at all shares.",
        ),
        (made({}), "Whether mine pays against scratch can't be told yet, as no seed has run at all shares."),
    ],
)
def test_the_sentence_that_figures_carry(one: Comparison, said: str) -> None:
    assert verdict([one], "mask AP") == said


def test_several_comparisons_are_one_sentence() -> None:
    said = verdict([made({10.0: (5, 6, 7), 100.0: (1, 1, 1)}), made({10.0: (9, -3, 4), 100.0: (1, 1, 1)})], "mIoU")
    assert said.startswith("Yes, mine pays")
    assert said.count("mIoU") == 1
    assert said.endswith(
        "; whether mine pays against scratch can't be told from these 3 seeds: +2.2 points, "
        "95\xa0%:\xa0-5.3\xa0to\xa0+9.7."
    )
    assert verdict([], "mIoU") == "Nothing is compared yet."


def said_of(*gains: float, **more: float) -> str:
    """The sentence of one share with these gains, in points."""
    one = made({10.0: gains}, shares=SHARES[:1])._replace(**more)
    return verdict([one], "mIoU", 0.25)


def test_a_gain_that_is_sure_but_small_is_said_to_be() -> None:
    assert said_of(0.4, 0.5, 0.6).startswith("Yes, mine pays against scratch, but by less than a point: +0.5 points of")


def test_what_is_printed_decides() -> None:
    for gain in (0.02, -0.02):  # ends of 0.0, and none that differ from it
        assert said_of(gain, 1.1 * gain).startswith(
            "No, mine does not pay against scratch, a gain of one point is left"
        )
    one = made({10.0: (0.5, 0.54)}, shares=SHARES[:1])
    assert one.whole
    for high, said in ((0.0098, "can't be told from these 2 seeds"), (0.0094, "is left out")):  # printed as 1.0 and 0.9
        assert said in verdict([one._replace(whole=one.whole._replace(ends=Interval(-0.0002, high)))], "mIoU")


def test_seeds_that_have_all_the_same_can_not_tell() -> None:
    assert said_of(2, 2, 2).startswith(
        "Whether mine pays against scratch can't be told from these 3 seeds, which all have the same: +2.0 points of mIoU"
    )


def test_chance_is_nothing_learnt() -> None:
    one = made({10.0: (0.0, 0.4)}, base=0.23, shares=SHARES[:1])
    assert verdict([one], "mIoU", 0.25).endswith(
        "neither learnt anything (25.4 % at best, as one answer for all pictures has): train for more steps."
    )
    assert "neither" not in verdict([one], "mIoU")


def test_runs_that_failed_are_said_with_the_answer() -> None:
    assert said_of(5, 6, 7, lost=1).endswith("3 seeds, and 1 run of the two failed, which this leaves out.")
    assert said_of(5, lost=2).endswith("and 2 runs of the two failed, which this leaves out.")
    nothing = made({10.0: (5, 6)})._replace(lost=3)
    assert verdict([nothing], "mIoU").endswith("no seed has run at all shares, and 3 runs of the two failed.")


def test_the_first_with_figures_names_what_they_are_of() -> None:
    said = verdict([made({10.0: (9, 8, 9)}), made({10.0: (5, 6, 7), 100.0: (1, 1, 2)})], "mIoU")
    assert said.count("points of mIoU on average") == 1
