"""Values of a COCO file that are not of the form that is expected, in words."""

from __future__ import annotations

import reprlib
from typing import Any

NUMBERS = {int, float}  # bool is neither
_EXACT = 2**53  # up to which every whole number is a float
_SHOWN = 60  # letters
_repr = reprlib.Repr()  # of lists in lists without end a part
_repr.maxlevel = 10
_repr.maxlist = _repr.maxdict = _repr.maxstring = _repr.maxlong = _repr.maxother = 2 * _SHOWN


def whole(value: Any) -> int | None:
    """Returns a whole number, written as 1 or as 1.0; None for anything else."""
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() and abs(value) <= _EXACT else None


def meant(value: Any) -> int | None:
    """Returns a whole number, or the one that a text stands for; None for anything else."""
    return whole(float(value)) if _number_in_text(value) else whole(value)


def told(value: Any) -> str:
    """Returns a value, cut off where it is long; a text is called one, and what has a name in JSON has that."""
    named = "null" if value is None else str(value).lower() if isinstance(value, bool) else _repr.repr(value)
    shown = named if len(named) <= _SHOWN else f"{named[:_SHOWN]} ..."
    return f"the text {shown}" if isinstance(value, str) else shown


def unquote(value: Any) -> str:
    """Returns what to do with a number that is written as a text; "" for anything else."""
    return ": write it without quotes" if _number_in_text(value) else ""


def form(value: Any) -> str:
    """Returns what a box or a segmentation is made of, where that is not what is expected."""
    if isinstance(value, str):
        return "a text: write it without quotes"
    if isinstance(value, dict):
        return f"an object with {', '.join(map(str, list(value)[:6])) or 'nothing in it'}"
    if not isinstance(value, list):
        return told(value)
    lists, depth = [value], 1
    while deeper := [one for found in lists for one in found if isinstance(one, list)]:
        lists, depth = deeper, depth + 1
    odd = [one for found in lists for one in found if type(one) not in (int, float) or not abs(one) < 1e30]
    if odd:
        texts = "numbers written as texts: write them without quotes"
        return texts if _number_in_text(odd[0]) else f"{_in_place(odd[0])} in place of numbers"
    if depth > 1 and all(len(found) == 2 for found in lists):
        return "[x, y] pairs: write their numbers one after the other"
    if depth > 2:
        return f"lists in lists, {depth} deep"
    if depth == 1:
        return f"one list of {len(value)} numbers"
    uneven = next((found for found in lists if len(found) % 2), [])
    return f"a polygon of {len(uneven)} numbers, of which the last has no partner" if uneven else "polygons"


def _in_place(value: Any) -> str:
    return f"objects with {', '.join(map(str, list(value)[:6]))}" if isinstance(value, dict) else told(value)


def _number_in_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) == float(value)
    except ValueError:
        return False
