"""What a file of weights may hold: plain containers within each other, of a bounded depth and size, none within itself."""

from __future__ import annotations

from types import NoneType
from typing import Any, NamedTuple

from torch import Tensor

from convmae.backbones.weights.stand_ins import Array, Refused

DEEPEST = 64  # containers within each other
_MOST_SHARED = 16  # values for each one that is there, where a container stands in several others
_FREE = 1000
_LEAVES = {int, float, str, bool, NoneType, Tensor}


class _Made(NamedTuple):
    value: Any
    size: int  # values in it, those of a container as often as it stands there
    height: int  # containers within each other


def plain(content: Any) -> Any:
    """Returns a pickle's content in dicts, lists and tuples, with arrays in the place of their stand-ins.

    What is the same object stays the same. Raises Refused for a container within itself, for too many within each other, and
    for what comes to far more values than there are: a few lists can hold each other 10^9 times.
    """
    known: dict[int, _Made | None] = {}  # by container; None while it is filled
    made = _make(content, known, 0)
    if made.size > _MOST_SHARED * (_FREE + sum(len(_parts(one.value)) for one in known.values() if one)):
        raise Refused(f"comes to {made.size:,} values, of few that stand there again and again; expected weights")
    return made.value


def _make(value: Any, known: dict[int, _Made | None], depth: int) -> _Made:
    if not isinstance(value, dict) and type(value) not in (list, tuple):
        return _Made(value.values if isinstance(value, Array) else value, 1, 0)
    place = id(value)
    if place not in known:
        known[place] = None
        if depth == DEEPEST:
            raise Refused(f"has more than {DEEPEST} containers within each other; expected weights")
        values, size, height = [], 1, 0
        for part in _parts(value):
            if type(part) in _LEAVES:  # most of what lists hold, which can be millions
                values.append(part)
                size += 1
                continue
            made = _make(part, known, depth + 1)
            values.append(made.value)
            size, height = size + made.size, max(height, made.height)
        whole = dict(zip(value, values, strict=True)) if isinstance(value, dict) else type(value)(values)
        known[place] = _Made(whole, size, height + 1)
    found = known[place]
    if found is None:
        raise Refused("has a container that holds itself; expected weights")
    if depth + found.height > DEEPEST:
        raise Refused(f"has more than {DEEPEST} containers within each other; expected weights")
    return found


def _parts(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value
