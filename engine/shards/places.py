"""Pictures in shards as paths: what takes the path of a file, or of a folder of pictures, takes these."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path, PosixPath
from typing import Any, NamedTuple

from convmae.engine.errors import UserError
from convmae.engine.shards.index import INDEX
from convmae.engine.shards.shards import Shards, open_store
from convmae.engine.shards.stores import FarStore, LocalStore

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/])")  # as pathlib leaves it, with one slash
_LOCAL = re.compile(r"(?:file|local):/*(?=/)")
_CHAINED = re.compile(r"[a-z][a-z0-9+.-]+::")  # fsspec's form, as simplecache::s3://bucket/folder
_DEVICE = 2**40  # no device of a file system has such a number, or a larger one
_opened: dict[str, tuple[Any, Shards]] = {}  # by where they lie; with what tells an index from one that took its place
_lock = threading.RLock()


class _Found(NamedTuple):
    """What a path means: shards, and the path in the tree that they hold; "" for its top."""

    shards: Shards
    inside: str

    def number(self) -> int:
        """Returns a picture's number. Raises FileNotFoundError where there is none."""
        found = self.shards.index.number(self.inside)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "No such picture in the shards", self.inside)
        return found


class InShards(PosixPath):
    """A path in a tree that is packed in shards: DATA/class/a.jpg, where DATA is the folder or address of the shards.

    It is read by its own methods alone (``open``, ``read_bytes``, ``stat``, ``iterdir``, ...); for libraries that open files by
    their names there is ``openable``. Files beside the index are there, too, under their names.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return _ADDRESS.sub(r"\1://", super().__str__(), count=1)

    def relative_to(self, *other: Any, **options: Any) -> Path:  # type: ignore[override]
        return Path(*super().relative_to(*other, **options).parts)

    def absolute(self) -> InShards:
        return self if _ADDRESS.match(str(self)) else InShards(super().absolute())

    def resolve(self, strict: bool = False) -> InShards:
        return self if _ADDRESS.match(str(self)) else InShards(super().resolve(strict))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Returns size and kind; pictures that were one file have one inode, and other bytes are of another time."""
        found = self._found()
        if self.is_dir():
            return _status(stat.S_IFDIR, 0, 0, 0, 0)
        try:
            number = found.number()
        except FileNotFoundError:
            return _status(stat.S_IFREG, 0, 0, found.shards.store.size(found.inside), 0)
        index, device = found.shards.index, _DEVICE + list(_opened).index(found.shards.store.name)
        entry = index.entry(number)
        return _status(stat.S_IFREG, device, index.first(number), entry.size, int(entry.digest, 16) >> 1)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_dir() or self.is_file()

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        found = self._found()
        folders = found.shards.index.folders
        return len(found.shards.index.below(found.inside)) > 0 or found.inside in folders

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        found = self._found()
        if found.shards.index.number(found.inside) is not None:
            return True
        try:
            return not self.is_dir() and found.shards.store.size(found.inside) >= 0
        except (OSError, UserError):
            return False

    def is_symlink(self) -> bool:
        return False

    def iterdir(self) -> Iterator[Path]:  # type: ignore[override]
        """Yields what lies in a folder: its pictures, and the folders with pictures or those of a class without."""
        found = self._found()
        index, depth = found.shards.index, len(Path(found.inside).parts)
        inside = [path for path in index.folders if Path(found.inside).parts == Path(path).parts[:depth]]
        numbers = index.below(found.inside)
        paths = (path.split("/") for path in (*(index.paths[number] for number in numbers), *inside))
        for name in dict.fromkeys(parts[depth] for parts in paths if len(parts) > depth):
            yield self / name

    def read_bytes(self) -> bytes:
        found = self._found()
        try:
            return found.shards.read(found.number())
        except FileNotFoundError:
            return found.shards.store.read_all(found.inside)

    def open(self, mode: str = "rb", *_: Any, **__: Any) -> Any:
        if mode != "rb":
            raise io.UnsupportedOperation(f"{self} lies in shards, which are read as bytes alone; found mode {mode!r}")
        return io.BytesIO(self.read_bytes())

    def digest(self) -> str:
        """Returns what tells a picture's bytes from all others. Raises FileNotFoundError where there is none."""
        found = self._found()
        return found.shards.index.entry(found.number()).digest

    def pictures(self, once: bool) -> list[Path]:
        """Returns the pictures in this folder and those below it, in order; ``once``: without second links to one file.

        Raises UserError where there are none.
        """
        found = self._found()
        index = found.shards.index
        numbers = index.below(found.inside)
        if not numbers:
            raise UserError(
                f"There is no folder {self}: expected one of the tree that is packed in {found.shards.store.name}."
            )
        top = InShards(found.shards.store.name)
        return [top / index.paths[number] for number in (index.once(numbers) if once else numbers)]

    def _found(self) -> _Found:
        """Returns the shards that this path lies in. Raises UserError where there are none, or they can't be used."""
        text = str(self)
        name = text
        while name:
            if name in _opened:
                return _Found(_opened[name][1], text[len(name) + 1 :])
            name = name.rpartition("/")[0]
        far = _ADDRESS.match(text) is not None
        for folder in (self, *self.parents):
            name = str(folder)
            if _ADDRESS.match(name) if far else _has_index(name):
                with _lock:
                    shards = _opened[name][1] if name in _opened else _open(name, far)
                if shards is not None:
                    return _Found(shards, text if name == "." != text else text[len(name) + 1 :])
        raise UserError(f"There are no shards at {self}: expected a folder with {INDEX}, as tools/pack.py writes it.")


def place(given: str | Path) -> Path:
    """Returns a path, as one in shards where it lies in a folder of these or behind an address such as s3://bucket/folder.

    Nothing is opened yet, and that an address is right is seen when it is. Raises UserError for fsspec's chains of addresses.
    """
    if isinstance(given, InShards):
        return given
    text = _LOCAL.sub("", os.fspath(given))
    if _CHAINED.match(text):
        raise UserError(
            f"{text} is a chain of addresses; expected one, such as {text.rpartition('::')[2] or 's3://bucket/folder'} (what "
            "is read from it is kept on this machine in any case)."
        )
    if _ADDRESS.match(text):
        return InShards(text)
    path = Path(text)
    for folder in (path, *path.parents):
        if _has_index(str(folder)):
            name = str(folder)
            if name in _opened and _opened[name][0] != _stamp(name):  # packed anew
                del _opened[name]
            return InShards(path)
    return path


def as_path(given: str | Path) -> Path:
    """Returns a Path as it is, and a text as ``place`` does: a listed picture need not be looked at again."""
    return given if isinstance(given, Path) else place(given)


def openable(path: Path) -> Any:
    """Returns what a library opens that takes a file's name or a file: of a picture in shards, its bytes."""
    return path.open("rb") if isinstance(path, InShards) else path


def _open(name: str, far: bool) -> Shards | None:
    shards = open_store(FarStore(name) if far else LocalStore(Path(name)))
    if shards is not None:
        _opened[name] = None if far else _stamp(name), shards
    return shards


def _has_index(folder: str) -> bool:
    return os.path.isfile(f"{folder}/{INDEX}")


def _stamp(name: str) -> Any:
    state = os.stat(f"{name}/{INDEX}")
    return state.st_size, state.st_mtime_ns, state.st_ino


def _status(kind: int, device: int, inode: int, size: int, nanoseconds: int) -> os.stat_result:
    seconds = nanoseconds // 10**9
    times = {f"st_{one}time_ns": nanoseconds for one in "amc"}
    return os.stat_result((kind | 0o444, inode, device, 1, 0, 0, size, seconds, seconds, seconds), times)
