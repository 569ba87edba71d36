"""Pictures that lie in two places, in two splits or twice in one: by their pixels where all are decoded, else by files' bytes.

A data check decodes every picture and so finds those that were saved anew without loss, or with other metadata. A run can't
at its start; it compares files, which costs next to nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np

from convmae.engine.faults import Effect, Fault, Report, spread
from convmae.engine.pictures.images import Picture
from convmae.engine.shards.places import InShards

LISTED = 100_000  # files of a split whose sizes are compared at the start of a run, spread evenly
READ = 10_000  # files of equal size that are then read
_PIECE = 4096  # bytes at the beginning, the middle and the end, which tell most files of a size apart
_BLOCK = 2**20
_CHUNK = 256  # files that a thread takes at a time
T = TypeVar("T")
R = TypeVar("R")


class Member(NamedTuple):
    """A file by its split and its place in it."""

    split: int
    place: int


class _File(NamedTuple):
    member: Member
    path: Path
    size: int
    inode: tuple[int, int]


def content_of(picture: Picture) -> bytes:
    """Returns what tells a decoded picture from all others: a digest of its size and its pixels."""
    pixels = np.ascontiguousarray(picture)
    digest = hashlib.blake2b(f"{pixels.shape}".encode(), digest_size=16)
    digest.update(pixels.ravel().data)
    return digest.digest()


def same_contents(contents: Mapping[Path, bytes], *splits: Sequence[Path]) -> list[list[Member]]:
    """Returns groups of pictures of equal ``contents``, by ``content_of``; one that has none there is in no group."""
    groups: dict[bytes, list[Member]] = {}
    for number, split in enumerate(splits):
        for place, path in enumerate(split):
            if path in contents:
                groups.setdefault(contents[path], []).append(Member(number, place))
    return sorted(group for group in groups.values() if _spans(group, splits))


def same_files(*splits: Sequence[Path]) -> list[list[Member]]:
    """Returns groups of files that hold the same bytes: two files or more of one split, or files of each of several splits.

    Sizes are compared first, and only files of equal size are read: at most ``LISTED`` files of a split are compared and
    ``READ`` are read. Files that are empty or not there are in no group.
    """
    listed = [spread(range(len(split)), LISTED) for split in splits]
    members = [Member(number, place) for number, places in enumerate(listed) for place in places]
    files = [file for file in _threaded(lambda one: _look(one, splits[one.split][one.place]), members) if file]

    def spans(group: Sequence[_File]) -> bool:
        return _spans([file.member for file in group], splits)

    groups = _within([group for group in _split([files], lambda file: file.size) if spans(group)], READ)
    packed = all(isinstance(file.path, InShards) for group in groups for file in group)
    for key in (_digest,) if packed else (_pieces, _whole):
        linked = [
            group for group in groups if len({file.inode for file in group}) == 1
        ]  # links to one file: no need to read
        read = [group for group in groups if len({file.inode for file in group}) > 1]
        groups = linked + [group for group in _split(read, key) if spans(group)]
    return sorted([file.member for file in sorted(group)] for group in groups)


def check_shared(
    train: Sequence[Path],
    val: Sequence[Path],
    report: Report,
    labels: tuple[Sequence[str], Sequence[str]] | None = None,
    contents: Mapping[Path, bytes] | None = None,
) -> None:
    """Reports the validation pictures that are training pictures as well, and in what other class they are.

    ``labels``: the class of each picture of the two splits; ``contents``: those of all pictures, where all were decoded.
    """
    if list(train) == list(val):
        message = (
            f"all {len(val):,} validation pictures are the training pictures: the numbers tell what was learnt by heart"
        )
        report(Fault("splits that are one and the same", message, Effect.DOUBTFUL))
        return
    groups, alike = _groups(contents, train, val)
    for group in groups:
        places = [place for split, place in group if split == 0]
        for place in (place for split, place in group if split == 1):
            other = next((one for one in places if labels and labels[0][one] != labels[1][place]), None)
            known = train[places[0] if other is None else other]
            same = "is used in training" if val[place] == known else f"holds {alike} {known}"
            if labels is not None and other is not None:
                said = f"{val[place]} {same}, but is {labels[1][place]!r} and was learnt as {labels[0][other]!r}"
                report(Fault("pictures that are of another class in training", said, Effect.DOUBTFUL))
            else:
                report(Fault("pictures that are training pictures, too", f"{val[place]} {same}", Effect.DOUBTFUL))


def check_repeated(
    paths: Sequence[Path],
    report: Report,
    contradiction: Callable[[int, int], str | None] = lambda first, place: None,
    contents: Mapping[Path, bytes] | None = None,
    contradictory: str = "",
) -> None:
    """Reports the pictures that a split holds more than once.

    ``contradiction`` returns in what two of them, by their places, are labelled in two ways, and ``contradictory`` is what
    such a fault is called; ``contents``: those of all pictures, where all were decoded.
    """
    groups, alike = _groups(contents, paths)
    for group in groups:
        first, *others = (member.place for member in group)
        for place in others:
            message = f"{paths[place]} holds {alike} {paths[first]}"
            if differs := contradiction(first, place):
                report(Fault(contradictory, f"{message}, but {differs}", Effect.DOUBTFUL))
            else:
                report(Fault("pictures that are there more than once", message, Effect.NOTE))


def _groups(contents: Mapping[Path, bytes] | None, *splits: Sequence[Path]) -> tuple[list[list[Member]], str]:
    """Returns the groups of pictures that are alike, and in what."""
    if contents is None:
        return same_files(*splits), "the same bytes as"
    return same_contents(contents, *splits), "the same pixels as"


def _spans(group: Sequence[Member], splits: Sequence[Sequence[Path]]) -> bool:
    return len(group) > 1 and len({member.split for member in group}) == len(splits)


def _look(member: Member, path: Path) -> _File | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # said where files are listed or read; ValueError: a name that no file can have
        return None
    return _File(member, path, status.st_size, (status.st_dev, status.st_ino)) if status.st_size else None


def _split(groups: Sequence[Sequence[_File]], key: Callable[[_File], Hashable]) -> list[list[_File]]:
    """Returns the groups, each split by a key; files whose key is None are left out."""
    keys = iter(_threaded(key, [file for group in groups for file in group]))
    found: list[list[_File]] = []
    for group in groups:
        parts: dict[Hashable, list[_File]] = {}
        for file in group:
            parts.setdefault(next(keys), []).append(file)
        parts.pop(None, None)
        found += parts.values()
    return found


def _within(groups: list[list[_File]], count: int) -> list[list[_File]]:
    """Returns groups, spread evenly, of about so many files."""
    total = sum(map(len, groups))
    chosen = spread(groups, max(1, len(groups) * count // total)) if total > count else groups
    return [spread(group, count) for group in chosen]


def _digest(file: _File) -> str:
    return cast(InShards, file.path).digest()  # an index knows it, of bytes that may lie far away


def _pieces(file: _File) -> bytes | None:
    starts = (0, max(0, file.size // 2 - _PIECE // 2), max(0, file.size - _PIECE))
    try:
        with file.path.open("rb") as content:
            found = hashlib.blake2b(digest_size=16)
            for start in starts:
                content.seek(start)
                found.update(content.read(_PIECE))
    except OSError:
        return None
    return found.digest()


def _whole(file: _File) -> bytes | None:
    if file.size <= 3 * _PIECE:  # read already
        return b""
    try:
        with file.path.open("rb") as content:
            found = hashlib.blake2b(digest_size=16)
            while part := content.read(_BLOCK):
                found.update(part)
            return found.digest()
    except OSError:
        return None


def _threaded(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Returns what a function gives for each item; waiting for a disk lets other threads run."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        return [found for part in pool.map(lambda chunk: [function(item) for item in chunk], chunks) for found in part]
