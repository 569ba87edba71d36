"""The list of the files that runs wrote into a folder: ``--overwrite`` removes these, and nothing else that lies there."""

from __future__ import annotations

import fcntl
import glob
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from re import fullmatch
from urllib.parse import quote, unquote_to_bytes

from convmae.engine.errors import UserError

LIST = "files.txt"
_HEAD = "# What convmae wrote into this folder; --overwrite removes these files and no others."
_PATIENCE = 15.0  # seconds; the loader processes of a run that was killed end within 5
_DEEPEST = 2  # folders from a file up to its run's: report/index.html, tensorboard/events...


def start_list(folder: Path) -> None:
    """Begins a folder's list, if it has none. Raises OSError where it can't be written, UserError for another file there."""
    if listed(folder) is None:
        path = folder / LIST
        if path.is_file() and path.stat().st_size:
            raise UserError(f"{path} is no list of what a run wrote. Give another --work-dir, or move it.")
        path.write_text(f"{_HEAD}\n", encoding="utf-8")


def listed(folder: Path) -> list[Path] | None:
    """Returns the files that runs wrote into a folder, removed ones too, or None where there is no list."""
    try:
        if not os.path.isfile(folder / LIST):  # a pipe would be waited for
            return None
        head, *names = (folder / LIST).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return None
    if head != _HEAD:
        return None
    inside = [Path(os.fsdecode(unquote_to_bytes(name))) for name in dict.fromkeys(names) if name]
    return [folder / name for name in inside if not name.is_absolute() and ".." not in name.parts]


def claim(path: Path) -> None:
    """Puts a file on the list of the folder that a run writes to, if it lies in one."""
    for folder in list(path.parents)[:_DEEPEST]:
        known = listed(folder)
        if known is not None:
            if path not in known:
                with open(folder / LIST, "a", encoding="utf-8") as file:
                    # A name that has a new line in it, or bytes that are no UTF-8, is on one line, too.
                    file.write(f"{quote(os.fsencode(path.relative_to(folder)), safe='/ ')}\n")
            return


def remove_listed(folder: Path) -> None:
    """Removes the files on a folder's list, and the list."""
    for path in listed(folder) or ():
        if not path.is_dir():
            path.unlink(missing_ok=True)
    (folder / LIST).unlink(missing_ok=True)


def partial_name(path: Path) -> Path:
    """Returns where a file is written until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def sweep(folder: Path) -> None:
    """Removes what runs that were killed had begun to write into a folder."""
    for path in listed(folder) or ():
        for partial in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            if partial.name.removeprefix(f".{path.name}.").removesuffix(".part").isdigit():
                partial.unlink(missing_ok=True)


@contextmanager
def only_one(folder: Path, option: str = "--work-dir") -> Iterator[None]:
    """Keeps a folder for this process. Raises UserError if another run has it for some seconds more."""
    place = os.open(folder, os.O_RDONLY)
    until = time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UserError(
                        f"Another run is writing to {folder}. Wait for its end, or give another {option}."
                    ) from None
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(place)


def not_listed(folder: Path, names: Iterable[str]) -> list[Path]:
    """Returns what matches one of the patterns ``names`` in a folder and is no run's."""
    own = set(listed(folder) or ())
    return [path for path in matching(folder, names) if path not in own]


def matching(folder: Path, names: Iterable[str]) -> list[Path]:
    """Returns the files in a folder that have one of ``names``; a star stands for a number."""
    found = [(path, name) for name in names for path in sorted(folder.glob(name)) if path.is_file()]
    return [
        path
        for path, name in found
        if fullmatch(name.replace(".", r"\.").replace("*", "[0-9]+"), path.name) or "*" not in name
    ]
