"""Why pictures that a COCO file names are not in their folder."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from convmae.engine.pictures.file_names import FOLDER, find_twins, list_files, show, tell_each, tell_twins

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ABOVE = 3  # folders above the pictures' that a name may start from


def leads_out(name: str) -> bool:
    """Whether a picture's name starts elsewhere than from the picture folder, or goes up from it."""
    return name.startswith("/") or bool(_DRIVE.match(name)) or posixpath.normpath(name).split("/")[0] == ".."


class Reasons:
    """What can be known of names without a picture: which files they may mean, and which folder they may start from."""

    def __init__(self, missing: Sequence[str], folder: Path, annotations: Path) -> None:
        """Looks through the folder, which takes some seconds where it holds 100,000 files."""
        self._missing, self._folder = missing, folder
        self._twins = find_twins(missing, list_files(folder))
        self._each = tell_each(self._twins)
        self._cure = f" Write the names in {annotations} as the files are called, or rename the files."

    def of_one(self, name: str) -> str:
        """Returns what follows "3 of 4 are missing": how many of them so, how the name differs from a file's, what to do."""
        why = f", {self._each[name]}{self._cure}" if name in self._each else "."
        return why + self._start(name)

    def of_all(self) -> str:
        """Returns the sentences that follow one that says that all are missing."""
        if not self._twins:
            return self._start(self._missing[0]) or " Is it the right folder?"
        return f" {tell_twins(self._twins)}{self._cure}{self._start(next(iter(self._twins)))}"

    def _start(self, name: str) -> str:
        """Returns a sentence on the folder that a name starts from, if it is another one."""
        twin = self._twins.get(name)
        path = twin.folded(FOLDER) if twin else name.replace("\\", "/")
        starts = [parent for parent in list(self._folder.parents)[:_ABOVE] if _lies(parent / path)]
        if twin and twin.file.endswith(f"/{path}"):
            starts.append(self._folder / twin.file.removesuffix(f"/{path}"))
        return f" {show(path)} lies in {starts[0]}: is that the folder that the names start from?" if starts else ""


def _lies(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # what can't be a file's name
        return False
