"""Why a file that is named is not there: another that is there has the same name but for a known difference."""

from __future__ import annotations

import html
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

_MOST = 1_000_000  # files of a folder that are looked at
_SHOWN = 3  # sets of differences that one message tells
_ENDING = r"\.(jpe?g|jpe|jfif|png|bmp|webp|tiff?|gif|ppm|pgm|jp2|avif|hei[cf])$"
_KIND = (
    r"(leftImg8bit|gtFine|gtCoarse|label(s|TrainIds|Ids)?|(ground_?)?truth|gt|masks?|seg(mentation)?|annotations?|rgb|color|"
    r"instanceIds|image|img|sat|L)"
)


class Difference(NamedTuple):
    """What two names can differ in, the function that takes it out of either, and what to know of it."""

    name: str
    fold: Callable[[str], str]
    hint: str = ""


class Twin(NamedTuple):
    """A name, the file that it is the name of but for some differences, and these."""

    name: str
    file: str
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        hints = "".join(f" {one.hint}" for one in self.differences if one.hint)
        names = " and ".join(one.name for one in self.differences)
        return f"{show(self.name)} differs from the file {show(self.file)} by {names}.{hints}"

    def folded(self, *but: Difference) -> str:
        """Returns the name without the differences other than ``but``."""
        return _fold(self.name, [one for one in self.differences if one not in but])


def _without(pattern: str, by: str = "", flags: int = 0) -> Callable[[str], str]:
    compiled = re.compile(pattern, flags)
    return lambda name: compiled.sub(by, name)


def _read_as_utf8(name: str) -> str:
    """Returns a name that was read in another encoding than UTF-8, by a zip program perhaps, as it was meant."""
    for encoding in ("cp1252", "latin-1", "cp437"):
        with suppress(UnicodeError):
            return name.encode(encoding).decode("utf-8")
    return name


def _read_as_latin1(name: str) -> str:
    """Returns a file's name whose bytes are no UTF-8, which Python keeps as surrogates, as the Latin-1 that they may be."""
    if name.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in name):
        return name
    with suppress(UnicodeError):
        return name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


FOLDER = Difference("the folder before it", lambda name: name.rpartition("/")[2])
# In the order in which they are taken out; of several that would do, the first is told.
DIFFERENCES = (
    Difference("the parts of a web address", _without(r"^(.*\?d=|[A-Za-z][A-Za-z0-9+.-]*://[^/]*/)|\?[^/]*$")),
    Difference("percent-encoding", unquote, "Decode it: %20 is a blank, %C3%A9 an é."),
    Difference("HTML's escapes", html.unescape, "Decode them: &amp; is an &."),
    Difference(
        "backslashes", lambda name: name.replace("\\", "/"), "Write / between folders: \\ parts them on Windows alone."
    ),
    Difference("the encoding that one was written in, which is not UTF-8", _read_as_latin1),
    Difference("the encoding that one was read in, which was not UTF-8", _read_as_utf8),
    Difference(
        "the Unicode form of the same letters",
        lambda name: unicodedata.normalize("NFC", name),
        "Composed (NFC), an accented letter is one character; decomposed (NFD), a letter and an accent.",
    ),
    Difference(
        "characters that look alike",
        lambda name: unicodedata.normalize("NFKC", name),
        "A no-break space and a full-width digit are such.",
    ),
    Difference("blanks at an end", lambda name: "/".join(map(str.strip, name.split("/")))),
    Difference("upper and lower case", str.casefold),
    Difference("_ or + in place of blanks", _without(r"[ +]", "_")),
    Difference("the ending", _without(_ENDING, flags=re.IGNORECASE)),
    Difference("the eight characters that Label Studio puts before a name", _without(r"(?<![^/])[0-9a-f]{8}-")),
    Difference("what Roboflow puts behind a name", _without(r"_(jpe?g|png|bmp|webp)\.rf\.[0-9a-zA-Z]{16,}")),
    Difference("what COCO's names of 2014 begin with", _without(r"(?<![^/])COCO_[a-z]+20\d\d_", flags=re.IGNORECASE)),
    Difference("zeros that one begins with", _without(r"(?<![^/])0+(?=\d)")),
    FOLDER,
)
LABEL_MARK = Difference(
    "what marks it as picture or label map, as _mask or _labelIds",
    _without(rf"(?<![^/])({_KIND}[._ -]+)+|([._ -]+{_KIND})+$", flags=re.IGNORECASE),
)


def find_twins(
    missing: Iterable[str], files: Iterable[str], differences: Sequence[Difference] = DIFFERENCES
) -> dict[str, Twin]:
    """Returns for each name that is not among ``files`` the file that it differs from in known ways alone, where there is one.

    Names and files are relative to one folder, parted by /. The time grows with their number, not with its square.
    """
    inner = [one for one in differences if one is not FOLDER]
    paths: dict[str, str] = {}  # without all differences but the folder
    tails: dict[str, str] = {}  # the same, leading folders cut off
    twice: set[str] = set()
    for file in files:
        folded = _fold(file, inner)
        paths.setdefault(folded, file)
        for tail in _tails(folded):
            if tails.setdefault(tail, file) != file:
                twice.add(tail)
    twins: dict[str, Twin] = {}
    usual: tuple[Difference, ...] = ()  # most names differ as the one before
    for name in missing:
        folded = _fold(name, inner)
        below = [paths[tail] for tail in (folded, *_tails(folded)) if tail in paths]
        last = FOLDER.fold(folded)
        above = [tails[tail] for tail in (folded, last) if tail in tails and (tail == folded or tail not in twice)]
        if last and (found := [*below, *above]):
            if not _all_needed(name, found[0], usual):
                usual = _needed(name, found[0], differences)
            twins[name] = Twin(name, found[0], usual)
    return twins


def tell_each(twins: Mapping[str, Twin]) -> dict[str, str]:
    """Returns for each name how many have its set of differences, and what it is."""
    alike = Counter(twin.differences for twin in twins.values())
    return {name: f"{alike[twin.differences]} of them so: {twin}" for name, twin in twins.items()}


def tell_twins(twins: Mapping[str, Twin]) -> str:
    """Returns for each of the usual sets of differences how many names have it, and the first of them."""
    groups: dict[tuple[Difference, ...], list[Twin]] = {}
    for twin in twins.values():
        groups.setdefault(twin.differences, []).append(twin)
    usual = sorted(groups.values(), key=len, reverse=True)[:_SHOWN]
    return " ".join(f"{len(group)} of them so: {group[0]}" for group in usual)


def list_files(folder: Path) -> list[str]:
    """Returns the files in a folder and those below it, relative to it and parted by /; a folder linked twice once."""
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(parent)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        place = Path(parent).relative_to(folder)
        found += ((place / name).as_posix() for name in names)
        if len(found) >= _MOST:
            break
    return found


def show(name: str) -> str:
    """Returns a name in quotes; accents behind their letter and what can't be seen are written as numbers, as in Python."""
    letters = (
        letter if letter.isprintable() and not unicodedata.combining(letter) else ascii(letter)[1:-1] for letter in name
    )
    return f"'{''.join(letters)}'"


def _fold(name: str, differences: Iterable[Difference]) -> str:
    return reduce(lambda folded, one: one.fold(folded), differences, name)


def _tails(path: str) -> list[str]:
    """Returns a path without its first folder, its first two, and so on."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def _all_needed(name: str, file: str, differences: Sequence[Difference]) -> bool:
    """Returns whether two names are the same without these differences, but not without all of them but one."""
    if _fold(name, differences) != _fold(file, differences):
        return False
    fewer = ([other for other in differences if other is not one] for one in differences)
    return all(_fold(name, rest) != _fold(file, rest) for rest in fewer)


def _needed(name: str, file: str, differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Returns the fewest differences without which two names are the same, the less usual ones left out first."""
    needed, left, right = [], name, file
    for one in differences:
        before = left, right
        left, right = one.fold(left), one.fold(right)
        if (left, right) != before:
            needed.append(one)
    for one in reversed(needed.copy()):
        rest = [other for other in needed if other is not one]
        if _fold(name, rest) == _fold(file, rest):
            needed = rest
    return tuple(needed)
