"""Class folders: which folders are classes, and which pictures they hold."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, Report
from convmae.engine.files import read_text
from convmae.engine.pictures.duplicates import check_repeated, check_shared
from convmae.engine.pictures.folders import is_hidden, list_images


def class_folders(folder: Path) -> list[str]:
    """Returns the names of a split's class folders in the order of their labels.

    Raises UserError for fewer than two, and for two of one name in two Unicode forms.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; expected one that holds a folder a class.")
    found = _folders(folder)
    if len(found) < 2:
        inside = _folders(folder / found[0]) if found else []
        meant = (
            f" That one holds folders: are its {len(inside)} the classes? Then move them up." if len(inside) > 1 else ""
        )
        holds = f"one class folder, {found[0]!r}" if found else "no class folders"
        raise UserError(f"{folder} holds {holds}; a classifier needs two or more, one a class.{meant}")
    for name, other in itertools.pairwise(found):
        if same_form(name) == same_form(other):
            raise UserError(
                f"{folder} has two class folders {other!r}, their names in two Unicode forms; put their pictures into one."
            )
    return found


def find_labelled(folder: Path, classes: Sequence[str], report: Report) -> list[tuple[Path, int]]:
    """Returns the pictures of a split with their labels. Reports classes without, what is passed over, and classes alike."""
    label_of, depth = {name: label for label, name in enumerate(classes)}, len(folder.parts)
    found: dict[str, list[Path]] = {name: [] for name in classes}
    loose: list[Path] = []
    for path in list_images(folder, report):
        (found[path.parts[depth]] if len(path.parts) > depth + 1 else loose).append(path)
    for name, paths in found.items():
        if not paths:
            message = f"{folder / name} holds no pictures; remove the folder if it is no class."
            report(Fault("class folders without pictures", message))
    if loose:
        message = (
            f"{folder}: {len(loose)} pictures lie beside the class folders and are passed over, as {loose[0].name}"
        )
        report(Fault("folders with pictures beside the class folders", message, Effect.DOUBTFUL))
    _check_alike(folder, classes, report)
    return [(path, label_of[name]) for name in classes for path in found[name]]


def check_same_folders(train: Path, train_folders: Sequence[str], val: Path, val_folders: Sequence[str]) -> None:
    """Raises UserError where the splits differ in their class folders, whatever the Unicode form of their names."""
    sides = [
        (train, {same_form(name): name for name in train_folders}),
        (val, {same_form(name): name for name in val_folders}),
    ]
    if sides[0][1].keys() == sides[1][1].keys():
        return
    only = sorted(sides[0][1].keys() ^ sides[1][1].keys())
    (holder, names), (other, others) = sides if only[0] in sides[0][1] else sides[::-1]
    name = names[only[0]]
    near = next((one for form, one in others.items() if form not in names and _plain(one) == _plain(name)), None)
    raise UserError(
        f"{holder} has the class folder {name!r}, {other} has not"
        + (f" (and {len(only) - 1} more differ)" if len(only) > 1 else "")
        + "; expected the same classes in both."
        + (f" {other} has {near!r}, which differs in case, spaces or dashes alone: rename one of them." if near else "")
    )


def _folders(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
    return sorted(names, key=lambda name: (same_form(name), name))


def same_form(name: str) -> str:
    """Returns a name in the one form that Unicode's are compared in: macOS writes others than most systems."""
    return unicodedata.normalize("NFC", name)


def _plain(name: str) -> str:
    return "".join(char for char in same_form(name).casefold() if not char.isspace() and char not in "_-")


def _check_alike(folder: Path, classes: Sequence[str], report: Report) -> None:
    known: dict[str, str] = {}
    for name in classes:
        first = known.setdefault(_plain(name), name)
        if first != name:
            message = f"{folder}: the class folders {first!r} and {name!r} differ in case, spaces or dashes alone"
            report(Fault("class folders with names alike", message, Effect.DOUBTFUL))


class _Labelled(Protocol):
    """A split: its class folders in the order of their labels, and its pictures with these."""

    folders: list[str]
    pictures: list[tuple[Path, int]]


def check_shared_pictures(
    train: _Labelled, val: _Labelled, report: Report, contents: Mapping[Path, bytes] | None = None
) -> None:
    """Reports the validation pictures that are training pictures as well, and in what other class they are."""
    labels = [[same_form(split.folders[label]) for _, label in split.pictures] for split in (train, val)]
    paths = [[path for path, _ in split.pictures] for split in (train, val)]
    check_shared(paths[0], paths[1], report, (labels[0], labels[1]), contents)


def check_repeated_pictures(
    pictures: Sequence[tuple[Path, int]],
    classes: Sequence[str],
    report: Report,
    contents: Mapping[Path, bytes] | None = None,
) -> None:
    """Reports the pictures that a split holds more than once, and which of them are in two classes."""

    def contradiction(first: int, place: int) -> str | None:
        (_, label), (_, other) = pictures[first], pictures[place]
        return f"one is {classes[other]!r} and the other {classes[label]!r}" if label != other else None

    check_repeated([path for path, _ in pictures], report, contradiction, contents, "pictures in two classes")


def class_names(path: Path, folders: Sequence[str], report: Report) -> list[str]:
    """Returns what class folders are called by lines of folder, tab, name; a folder's own name where no line is of it."""
    if not path.is_file():
        return list(folders)
    pairs = (line.split("\t", 1) for line in read_text(path).split("\n"))
    named = {same_form(pair[0].strip()): pair[1].strip() for pair in pairs if len(pair) == 2}
    unnamed = [folder for folder in folders if same_form(folder) not in named]
    unused = [name for name in named if name not in set(map(same_form, folders))]
    message = ""
    if len(unnamed) == len(folders):
        message = (
            f"{path} names none of the class folders, such as {folders[0]!r}, and is not used; expected lines of folder, tab, "
            "name."
        )
    elif unnamed and unused:  # each for itself may be meant: a longer list, or names for some folders alone
        message = (
            f"{path} has no line of the class folder {unnamed[0]!r}, but one of {unused[0]!r}, which is no folder; expected "
            "lines of folder, tab, name."
        )
    if message:
        report(Fault("class folders that classes.txt does not name", message, Effect.DOUBTFUL))
    return [named.get(same_form(folder)) or folder for folder in folders]
