"""Names and other text that people gave, made fit to be shown whatever they hold; and numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

BLANK = "(blank)"  # what is shown of a name without a visible character
# Characters that print nothing, that XML and UTF-8 can't hold, or that turn the text around them; a line's end and a tab apart.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def visible(text: str) -> str:
    r"""Returns a text with its control characters as escapes: \x07, \u202e; \xfc is a file name's byte that is no UTF-8."""
    return _UNSEEN.sub(lambda found: _escape(found.group()), text)


def shown(name: str, columns: int | None = None) -> str:
    """Returns a name as it is shown: on one line, its control characters as escapes, and no wider than ``columns`` letters.

    Of a name that is too long the beginning and the end stay. A Chinese character counts as two letters.
    """
    line = visible(" ".join(name.split()))
    if is_blank(line):
        return BLANK
    return line if columns is None else shorten(line, columns, _columns)


def is_blank(text: str) -> bool:
    """Whether a text has no character that leaves ink."""
    return all(character.isspace() or unicodedata.category(character) == "Cf" for character in text)


def shorten(text: str, room: float, measure: Callable[[str], float]) -> str:
    """Returns a text that measures at most ``room``, dots in the place of its middle where there is too much of it."""
    if measure(text) <= room:
        return text
    low, high = 0, len(text) - 1  # characters that stay; none does always
    while low < high:
        middle = (low + high + 1) // 2
        if measure(_cut(text, middle)) <= room:
            low = middle
        else:
            high = middle - 1
    return _cut(text, low)


def distinct(names: Sequence[str]) -> list[str]:
    """Returns the names, those that stood there before with their number: crane, crane (2)."""
    given, taken, found = set(names), set[str](), list[str]()
    for name in names:
        own, number = name, 1
        while own in taken or (number > 1 and own in given):
            number += 1
            own = f"{name} ({number})"
        taken.add(own)
        found.append(own)
    return found


def _cut(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"


def _columns(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # as Python reads a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def decimals(value: float, digits: int, sign: str = "") -> str:
    """Returns a number with so many decimals; zero has no minus. ``sign``: "+" for differences."""
    text = f"{value:{sign},.{digits}f}"
    return text if float(f"{value:.{digits}f}") else text.lstrip("+-")
