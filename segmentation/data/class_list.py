"""A class list: the names of the classes, and what it says of label 0."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from convmae.engine.errors import UserError
from convmae.engine.files import read_text
from convmae.engine.shards.places import place
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.layout import IGNORE

VOID = {"void", "unlabeled", "unlabelled", "unannotated", "no label", "no data", "nodata"}  # not meant to be learnt
OTHER = {"other", "others", "unknown", "undefined", "none", "nothing"}  # is, or is not, a class: the option says
BACKGROUND = {"background", "_background_", "bg"}  # a class more often than not
_IGNORED = re.compile(r"(?<![a-z])ignored?(?![a-z])", re.IGNORECASE)
_INDEX_FIRST = re.compile(r"(?P<index>\d+)(?:[.)]\s+|[\t,;:= ]+)(?P<name>\S.*)")
_INDEX_LAST = re.compile(r"(?P<name>\S.*?)\s*[\t,;]\s*(?P<index>\d+)")
_INDEX_BEHIND = re.compile(
    r"(?P<name>\S.*?)(\s*(?P<mark>[:=])\s*|\s+)(?P<index>\d+)"
)  # or a part of the name, as in "lane 2"
_HEAD = re.compile(r"\W*(idx?|index|label|class|name|(pixel )?value)(?![a-z])", re.IGNORECASE)
_HEAD_ALONE = re.compile(r"(class|label|category)?[ _]?names?|class(es)?|labels?|categor(y|ies)", re.IGNORECASE)
_COLOURED = re.compile(
    r"(\D.*[\s,;:])?\d{1,3}([\s,;]+\d{1,3}){2}(?!\d).*"
)  # red, green, blue, but for an index before a name


@dataclass(frozen=True)
class ClassList:
    """The names of the classes in their order, where they stand, and whether the list itself says which labels they have."""

    names: list[str]
    source: str
    numbered: bool


def read_classes(options: SegmentationDataOptions) -> list[str]:
    """Returns the class names of `read_class_list`."""
    return read_class_list(options).names


def read_class_list(options: SegmentationDataOptions) -> ClassList:
    """Returns the classes, those left out that are ignored.

    A list is a text file with one name a line, or index, tab, name, or a table with the columns Idx and Name as ADE20K's
    objectInfo150.txt; ``ade20k`` stands for the 150 names of ADE20K where the data folder has no list of its own.
    Raises UserError if the file is missing, empty, no text, out of order, or longer than 8-bit label maps can hold, if it has a
    name twice, and if it says of label 0 what ``reduce_zero_label`` contradicts.
    """
    own = place(options.root) / "classes.txt"
    if options.classes == "ade20k" and not own.is_file():
        from convmae.segmentation.mmseg_parts import ADE20KDataset  # here, because mmseg takes seconds to import

        source = f"data.classes=ade20k (there is no {own})"
        return ClassList(list(ADE20KDataset.METAINFO["classes"]), source, options.reduce_zero_label)
    path = own if options.classes in ("", "ade20k") else place(options.classes)
    if not path.is_file():
        raise UserError(
            f"No class list at {path}; expected a text file with one class name a line. Set data.root to the data, "
            "data.classes to such a file, or to ade20k for its 150 classes."
        )
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    _check_form(lines, path)
    entries = _numbered(_from_table(lines), path)
    if entries is None:
        names = lines
        if names and _IGNORED.search(names[0]):
            raise UserError(
                f"{path} begins with {names[0]!r} and does not say which labels its names have; expected the label before "
                f"each name, such as '0 {names[0]}' and '1 {names[1] if len(names) > 1 else 'road'}'."
            )
    else:
        names = _settle(entries, options.reduce_zero_label, path)
    largest = IGNORE - options.reduce_zero_label
    if not 2 <= len(names) <= largest:
        raise UserError(
            f"{path} names {len(names)} classes; expected 2 to {largest} (8-bit label maps, {IGNORE} is ignored)."
        )
    if ignored := next((name for name in names if _IGNORED.search(name)), None):
        raise UserError(
            f"{path} has the class {ignored!r}, which would be learnt; only label 0 and {IGNORE} can be ignored. Write its "
            f"pixels as {IGNORE} and take it out of the list, or name it without that word if it is a class."
        )
    written = Counter(unicodedata.normalize("NFC", name) for name in names)
    twice = next((name for name, count in written.items() if count > 1), None)
    if twice:
        raise UserError(f"{path} names the class {twice!r} more than once; expected each name once.")
    return ClassList(names, str(path), entries is not None)


def _check_form(lines: list[str], path: Path) -> None:
    """Raises UserError for files that are no list of names, though each of their lines could pass for one."""
    if not lines:
        return
    head, *others = lines
    if head[0] in "[{" and lines[-1][-1] in "]}":
        found = f"begins with {head!r}, as JSON does"
    elif others and all(map(_COLOURED.fullmatch, others)):
        found = f"has colours, as in {others[0]!r}: label maps hold no colours but the indices of classes"
    elif (
        (head[0] == "#" and others and others[0][0] != "#")
        or _HEAD_ALONE.fullmatch(head)
        or (head == str(len(others)) and not others[0].isdigit())
    ):
        found = (
            f"begins with {head!r}, which seems to be no class (if it is one, write its label before it, as before all)"
        )
    else:
        return
    raise UserError(f"{path} {found}; expected one class name a line, and nothing else but the label before each name.")


def _from_table(lines: list[str]) -> list[str]:
    """Returns index, tab, name of each line below a head that names such columns; other lists as they are."""
    head = lines[0].split("\t") if lines else []
    if not {"Idx", "Name"} <= set(head):
        return lines
    index, name = head.index("Idx"), head.index("Name")
    rows = [line.split("\t") for line in lines[1:]]
    return [f"{row[index]}\t{row[name]}" for row in rows if len(row) == len(head)]


def _numbered(lines: list[str], path: Path) -> list[tuple[int, str]] | None:
    """Returns the index and the name of each line, a head left out, or None if the lines are names alone."""
    for pattern in (_INDEX_FIRST, _INDEX_LAST):
        matches = [pattern.fullmatch(line) for line in lines]
        found = [(int(match["index"]), match["name"]) for match in matches if match]
        first = found[0][0] if found else 0
        counting = (
            len(found) > 1 and first < 2 and [index for index, _ in found] == list(range(first, first + len(found)))
        )
        if found and (
            len(found) == len(lines) or (len(found) == len(lines) - 1 and not matches[0] and _HEAD.match(lines[0]))
        ):
            return found
        if counting:
            lacking = next(line for line, match in zip(lines, matches, strict=True) if not match)
            raise UserError(
                f"{path}: {lacking!r} has no index, though {len(found)} other lines have one; expected it in all."
            )
    return _numbered_behind(lines)


def _numbered_behind(lines: list[str]) -> list[tuple[int, str]] | None:
    """Returns the index and the name of each line if numbers that end them can only be indices: each once, without a gap.

    Behind blanks, in order from 1, they may be a part of the names, whose order is right in either case.
    """
    matches = [match for line in lines if (match := _INDEX_BEHIND.fullmatch(line))]
    found = [(int(match["index"]), match["name"]) for match in matches]
    indices, number = [index for index, _ in found], len(found)
    if not number == len(lines) == len({name for _, name in found}) > 1:
        return None
    if indices == list(range(1, number + 1)) and not any(match["mark"] for match in matches):
        return None
    return found if sorted(indices) in (list(range(number)), list(range(1, number + 1))) else None


def _settle(entries: list[tuple[int, str]], zero_ignored: bool, path: Path) -> list[str]:
    """Returns the names of a numbered list that are classes. Raises UserError where it contradicts the option."""
    if entries[-1][0] == IGNORE and len(entries) < IGNORE:
        if not _says_ignored(entries[-1][1]):
            raise UserError(
                f"{path} gives label {IGNORE} to {entries[-1][1]!r}, but {IGNORE} is always ignored. Number the classes from 0 "
                "or 1 counting up by one, in the list and in the label maps."
            )
        entries = entries[:-1]
    first, name = entries[0] if entries else (0, "other")
    if first == 0 and zero_ignored and not _says_ignored(name):
        raise UserError(
            f"{path} gives label 0 to {name!r}, and data.reduce_zero_label=true ignores label 0. If {name!r} is a class, set "
            f"data.reduce_zero_label=false; if it is to be ignored, write '0 {name} (ignored)'."
        )
    if first == 0 and not zero_ignored and _IGNORED.search(name):
        raise UserError(
            f"{path} says that label 0 is ignored ({name!r}), and data.reduce_zero_label=false makes it a class. Set "
            "data.reduce_zero_label=true, or name it without that word if it is a class."
        )
    if first == 1 and not zero_ignored and all(index for index, _ in entries):
        raise UserError(
            f"{path} begins with label 1, {name!r}, and data.reduce_zero_label=false makes label 0 a class. Set "
            "data.reduce_zero_label=true if label 0 is ignored, or name label 0 in the list, too."
        )
    for position, (index, of_index) in enumerate(entries, start=first if first < 2 else int(zero_ignored)):
        if index != position:
            raise UserError(f"{path}: class {of_index!r} has index {index}; expected {position}, counting up by one.")
    return [of_index for index, of_index in entries if index >= int(zero_ignored)]


def _says_ignored(name: str) -> bool:
    """Whether a name says, or lets one expect, that its pixels are not learnt."""
    return bool(_IGNORED.search(name)) or name.casefold() in VOID | OTHER
