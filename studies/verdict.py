"""The one sentence that a study's figures carry."""

from __future__ import annotations

from collections.abc import Sequence

from convmae.engine.log import duration
from convmae.engine.text import decimals
from convmae.studies.figures import Comparison, Spread

POINT = 0.01  # the least gain that is worth a word, and the least score that shows that something was learnt


def verdict(comparisons: Sequence[Comparison], measure: str) -> str:
    """Returns in one sentence whether each first arm pays against the other.

    It does where the 95 % interval of its mean gain over the shares lies above zero; it does not where the interval lies below
    zero, or leaves out a gain of a point; else these seeds can't tell. The first comparison is told in full.
    """
    said = "; ".join(
        clause(one, f" of {measure}{_where(one)}" if not place else "") for place, one in enumerate(comparisons)
    )
    return f"{said[:1].upper()}{said[1:]}." if said else "Nothing is compared yet."


def clause(one: Comparison, what: str = "") -> str:
    """Returns what is said of one comparison, ``what`` its points are of."""
    pair = f"{one.arm} pays against {one.other}"
    gain = one.whole
    if gain is None:
        return f"whether {pair} can't be told yet, as no seed has run at all shares"
    if one.best < POINT:
        return (
            f"whether {pair} can't be told, as neither learnt anything ({decimals(100 * one.best, 1)} % at best): train for "
            "more steps"
        )
    figures = f"{points(gain.mean)}{what}"
    if gain.ends is None:
        return f"whether {pair} can't be told from one seed ({figures}, without an interval)"
    figures += f", {gain.ends.points('+')}"
    seeds = f"{len(gain.seeds)} seeds"
    if gain.ends.low > 0:
        return f"yes, {pair}: {figures}, {seeds}{_cost(one)}"
    no = f"no, {one.arm} does not pay against {one.other}"
    if gain.ends.high < 0:
        return f"{no}: {figures}, {seeds}"
    if gain.ends.high < POINT:
        return f"{no}, a gain of one point is left out: {figures}, {seeds}"
    return f"whether {pair} can't be told from these {seeds}: {figures}"


def points(gain: float) -> str:
    """Returns a difference of shares in points of 100."""
    text = decimals(100 * gain, 1, "+")
    return f"{text} point{'s' * (text.lstrip('+-') != '1.0')}"


def _where(one: Comparison) -> str:
    """Returns where the gain is largest and smallest, of several shares."""
    if len(one.by_share) < 2:
        return "".join(f" at {share:g} % of the labels" for share in one.by_share)
    ordered = sorted(one.by_share.items(), key=lambda item: item[1].mean)
    (least, low), (most, high) = ordered[0], ordered[-1]
    return f" on average over the shares of labels ({_at(high, most)}, {_at(low, least)})"


def _at(gain: Spread, share: float) -> str:
    return f"{decimals(100 * gain.mean, 1, '+')} at {share:g} %"


def _cost(one: Comparison) -> str:
    return f", for {duration(one.seconds)} of pretraining" if one.seconds else ""
