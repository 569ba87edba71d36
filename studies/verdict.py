"""The one sentence that a study's figures carry."""

from __future__ import annotations

from collections.abc import Sequence

from convmae.engine.log import duration
from convmae.engine.text import decimals
from convmae.studies.figures import Comparison, Spread

POINT = 0.01  # the least gain that is worth a word, and what shows that something was learnt


def verdict(comparisons: Sequence[Comparison], measure: str, floor: float = 0.0) -> str:
    """Returns in one sentence whether each first arm pays against the other.

    It does where the 95 % interval of its mean gain over the shares, as it is printed, lies above zero, which is said with a
    but where it ends below a point; it does not where the interval lies below zero, or leaves out a gain of a point; else these
    seeds can't tell. The first comparison with figures is told in full. ``floor``: the score of one answer for all pictures.
    """
    told = [clause(one, floor=floor) for one in comparisons]
    full = [clause(one, f" of {measure}{_where(one)}", floor) for one in comparisons]
    first = next((place for place, (short, long) in enumerate(zip(told, full, strict=True)) if short != long), 0)
    said = "; ".join(full[: first + 1] + told[first + 1 :])
    return f"{said[:1].upper()}{said[1:]}." if said else "Nothing is compared yet."


def clause(one: Comparison, what: str = "", floor: float = 0.0) -> str:
    """Returns what is said of one comparison, ``what`` its points are of."""
    pair = f"{one.arm} pays against {one.other}"
    lost = f"{one.lost} run{'s' * (one.lost > 1)} of the two failed" if one.lost else ""
    gain = one.whole
    if gain is None:
        return f"whether {pair} can't be told yet, as no seed has run at all shares{', and ' * bool(lost)}{lost}"
    if one.best < floor + POINT:
        found = f"{decimals(100 * one.best, 1)} % at best{', as one answer for all pictures has' if floor else ''}"
        return f"whether {pair} can't be told, as neither learnt anything ({found}): train for more steps"
    figures, seeds = f"{points(gain.mean)}{what}", f"{len(gain.seeds)} seeds"
    end = f", and {lost}, which this leaves out" if lost else ""
    if len(gain.seeds) == 1:
        return f"whether {pair} can't be told from one seed ({figures}, without an interval){end}"
    if gain.ends is None:
        return f"whether {pair} can't be told from these {seeds}, which all have the same: {figures}{end}"
    figures += f", {gain.ends.points('+')}"
    low, high = (float(decimals(100 * bound, 1)) for bound in gain.ends)
    if low > 0:
        but = ", but by less than a point" if high < 100 * POINT else ""
        return f"yes, {pair}{but}: {figures}, {seeds}{_cost(one)}{end}"
    no = f"no, {one.arm} does not pay against {one.other}"
    if high < 0:
        return f"{no}: {figures}, {seeds}{end}"
    if high < 100 * POINT:
        return f"{no}, a gain of one point is left out: {figures}, {seeds}{end}"
    return f"whether {pair} can't be told from these {seeds}: {figures}{end}"


def points(gain: float) -> str:
    """Returns a difference of shares in points of 100."""
    text = decimals(100 * gain, 1, "+")
    return f"{text} point{'s' * (text.lstrip('+-') != '1.0')}"


def _where(one: Comparison) -> str:
    """Returns where the gain is largest and smallest, of several shares."""
    if len(one.together) < 2:
        return "".join(f" at {share:g} % of the labels" for share in one.together)
    ordered = sorted(one.together.items(), key=lambda item: item[1].mean)
    (least, low), (most, high) = ordered[0], ordered[-1]
    return f" on average over the shares of labels ({_at(high, most)}, {_at(low, least)})"


def _at(gain: Spread, share: float) -> str:
    return f"{decimals(100 * gain.mean, 1, '+')} at {share:g} %"


def _cost(one: Comparison) -> str:
    return f", for {duration(one.seconds)} of pretraining" if one.seconds else ""
