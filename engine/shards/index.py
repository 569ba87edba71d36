"""The index of a folder of shards: which picture lies where, by its path in the tree that was packed."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmae.engine.errors import UserError

INDEX = "convmae_shards.json"  # no name that a folder has for another reason
FORMAT = "convmae shards 1"
_DIGEST = 16  # hexadecimal digits
_ADVICE = "Pack the pictures anew (tools/pack.py)."


class Shard(NamedTuple):
    """A tar file: its name, its size in bytes, and how many pictures it holds."""

    name: str
    size: int
    pictures: int


class Entry(NamedTuple):
    """Where a picture's bytes lie, and the digest that they have."""

    shard: Shard
    start: int
    size: int
    digest: str


def digest_of(content: bytes) -> str:
    """Returns what tells a picture's bytes from all others: 64 bits in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:_DIGEST]  # which processors have instructions for


@dataclass
class Index:
    """The pictures of all shards in the order of ``list_images``: by the parts of their paths, shard after shard.

    ``links``: groups of pictures that were one file, the one that counts first; ``folders``: class folders without pictures;
    ``source``: what tells the tree and the options that it was packed by.
    """

    shards: list[Shard]
    paths: list[str]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    digests: str
    links: list[list[int]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    source: str = ""

    def __post_init__(self) -> None:
        self._firsts = list(itertools.accumulate((shard.pictures for shard in self.shards), initial=0))
        self._twins = {number: group for group in self.links for number in group}

    def entry(self, number: int) -> Entry:
        """Returns where a picture lies."""
        shard = self.shards[bisect.bisect_right(self._firsts, number) - 1]
        digest = self.digests[number * _DIGEST : (number + 1) * _DIGEST]
        return Entry(shard, int(self.starts[number]), int(self.sizes[number]), digest)

    def first(self, number: int) -> int:
        """Returns the picture that stands for all that were the same file as this one."""
        return self._twins[number][0] if number in self._twins else number

    def number(self, path: str) -> int | None:
        """Returns the place of a picture, or None where there is none of that path."""
        place = bisect.bisect_left(self.paths, path.split("/"), key=_parts)
        return place if place < len(self.paths) and self.paths[place] == path else None

    def below(self, folder: str) -> range:
        """Returns the places of the pictures in a folder and those below it; "" is the tree's top."""
        if not folder:
            return range(len(self.paths))
        parts = folder.split("/")
        first = bisect.bisect_right(self.paths, parts, key=_parts)
        last = bisect.bisect_right(self.paths, parts, lo=first, key=lambda path: _parts(path)[: len(parts)])
        return range(first, last)

    def once(self, numbers: range) -> list[int]:
        """Returns the places without those of pictures that are a second link to the file of another among them."""
        others = {one for group in self.links for one in [one for one in group if one in numbers][1:]}
        return [one for one in numbers if one not in others]

    def dump(self) -> bytes:
        """Returns the index as a file's content, the same for the same index."""
        tree = {
            "format": FORMAT,
            "source": self.source,
            "shards": self.shards,
            "folders": self.folders,
            "links": self.links,
            "paths": self.paths,
            "starts": self.starts.tolist(),
            "sizes": self.sizes.tolist(),
            "digests": self.digests,
        }
        return json.dumps(tree, separators=(",", ":")).encode()


def read_index(content: bytes, name: str) -> Index:
    """Returns the index in a file's content. Raises UserError for one that is none, is cut off or contradicts itself."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is no index of shards, or is cut off ({error}). {_ADVICE}") from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        found = tree.get("format") if isinstance(tree, dict) else type(tree).__name__
        raise UserError(f"{name} is no index of shards: found {str(found)[:40]!r}, expected {FORMAT!r}. {_ADVICE}")
    try:
        index = Index(
            [Shard(_text(one), _count(size), _count(pictures)) for one, size, pictures in tree["shards"]],
            [_text(path) for path in tree["paths"]],
            np.array(tree["starts"], dtype=np.int64),
            np.array(tree["sizes"], dtype=np.int64),
            _text(tree["digests"]),
            [[_count(number) for number in group] for group in tree["links"]],
            [_text(folder) for folder in tree["folders"]],
            _text(tree["source"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{name} can't be used: {error!r} was found. {_ADVICE}") from None
    if wrong := _contradiction(index):
        raise UserError(f"{name} contradicts itself: {wrong}. {_ADVICE}")
    return index


def _contradiction(index: Index) -> str:
    """Returns what of an index can't be, or an empty text."""
    count = len(index.paths)
    listed = sum(shard.pictures for shard in index.shards)
    if count == 0 or listed != count:
        return f"its shards hold {listed} pictures, and {count} are listed"
    if index.starts.shape != (count,) or index.sizes.shape != (count,) or len(index.digests) != count * _DIGEST:
        return "its columns differ in length"
    ends = np.repeat([shard.size for shard in index.shards], [shard.pictures for shard in index.shards])
    if (index.starts < 0).any() or (index.sizes < 0).any() or (index.starts > ends - index.sizes).any():
        return "pictures lie beyond the end of their shards"
    names = [shard.name for shard in index.shards]
    if any("/" in name or name in ("", ".", "..") or "\0" in name for name in names) or len(set(names)) < len(names):
        return "its shards' names are no names of files beside it, or are there twice"
    if wrong := next((path for path in [*index.paths, *index.folders] if not _inside(path)), None):
        return f"{wrong!r} is no path in a folder"
    if any(one >= other for one, other in itertools.pairwise(map(_parts, index.paths))):
        return "its pictures are not in order"
    if any(not group or not all(number < count for number in group) for group in index.links):
        return "its links are of pictures that it does not list"
    return ""


def _inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return path not in ("", ".") and str(pure) == path and not pure.is_absolute() and ".." not in pure.parts


def _parts(path: str) -> list[str]:
    return path.split("/")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise ValueError(value)
    return value
