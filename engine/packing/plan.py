"""Which pictures of a tree go into which shard, and under which names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import PIL

from convmae.engine.errors import UserError
from convmae.engine.faults import Report
from convmae.engine.packing.shrinking import QUALITY
from convmae.engine.pictures.folders import is_hidden, list_images
from convmae.engine.shards.places import InShards

_LABEL_MAPS = "annotations"  # in ADE20K's layout
MOST_BYTES = 2**30  # of the files that go into one shard; one file may be larger


class Source(NamedTuple):
    """A picture: its file, its path in the tree, its name in the tar file, and what tells that it is the same still."""

    path: Path
    inside: str
    member: str
    size: int
    changed: int


@dataclass
class ShardPlan:
    """What goes into a shard, and the digest of that."""

    name: str
    sources: list[Source]
    long_side: int

    @property
    def stamp(self) -> str:
        """What tells the pictures, their state and the options from others."""
        told = [[one.inside, one.member, one.size, one.changed] for one in self.sources]
        return _digest([told, *_options(self.long_side)])


@dataclass
class Plan:
    """A tree's shards; ``links`` and ``folders`` as in the index, ``source`` tells the tree and the options from others."""

    shards: list[ShardPlan]
    links: list[list[int]]
    folders: list[str]
    source: str


def make_plan(root: Path, long_side: int, per_shard: int, report: Report) -> Plan:
    """Returns how a tree is packed.

    Raises UserError for one without pictures, with one that is gone meanwhile, or of label maps that would be cut.
    """
    paths = list_images(root, report)
    sources = list(_sources(root, paths))
    if long_side:
        _refuse_label_maps(root, sources)
    shards = [
        ShardPlan(f"shard-{number:06d}.tar", part, long_side) for number, part in enumerate(_parts(sources, per_shard))
    ]
    told = [[[one.inside, one.size] for one in sources], per_shard, MOST_BYTES, *_options(long_side)]
    return Plan(shards, _links(root, paths), _empty_classes(root, {one.inside for one in sources}), _digest(told))


def _refuse_label_maps(root: Path, sources: Sequence[Source]) -> None:
    above = root.absolute().parts[-2:]  # where annotations/training is packed
    found = [one for one in sources if _LABEL_MAPS in (*above, *one.inside.split("/")[:-1])]
    if found:
        raise UserError(
            f"{found[0].path} lies in a folder {_LABEL_MAPS!r}, ADE20K's name for label maps ({len(found)} of {len(sources)} "
            "files here): their values are classes, which --long-side would mix into others, and they have to be as large as "
            "their pictures. Leave it out; training scales both alike (data.scale)."
        )


def member_names(paths: Sequence[str]) -> list[str]:
    """Returns the names in tar files of pictures, by their paths in order.

    WebDataset takes what stands before the first dot of a name for the sample, and what stands behind for its field. So dots
    and % before the ending are written as in addresses (%2E, %25), and pictures that differ in their ending alone are told
    apart by a number behind a dash (%2D).
    """
    names, taken = [], dict[str, int]()
    for path in paths:
        folder, _, name = path.rpartition("/")
        stem, dot, ending = name.rpartition(".")
        stem = stem.replace("%", "%25").replace(".", "%2E")
        key = f"{folder}/{stem}" if folder else stem
        taken[key] = taken.get(key, 0) + 1
        names.append(f"{key}%2D{taken[key]}{dot}{ending}" if taken[key] > 1 else f"{key}{dot}{ending}")
    return names


def _sources(root: Path, paths: Sequence[Path]) -> Iterator[Source]:
    insides = [path.relative_to(root).as_posix() for path in paths]
    for path, inside, member in zip(paths, insides, member_names(insides), strict=True):
        try:
            state = path.stat()
        except OSError as error:
            raise UserError(
                f"{path} can't be read ({error.strerror}); restore it, or remove what leads to it."
            ) from None
        yield Source(path, inside, member, state.st_size, state.st_mtime_ns)


def _parts(sources: Sequence[Source], per_shard: int) -> Iterator[list[Source]]:
    part: list[Source] = []
    total = 0
    for one in sources:
        if part and (len(part) == per_shard or total + one.size > MOST_BYTES):
            yield part
            part, total = [], 0
        part.append(one)
        total += one.size
    yield part


def _links(root: Path, paths: Sequence[Path]) -> list[list[int]]:
    """Returns the groups of pictures that are one file by links, the one that ``list_images`` counts once first."""
    places = {path: number for number, path in enumerate(paths)}
    once = list_images(root, lambda fault: None, once=True)
    if len(once) == len(paths):
        return []
    groups: dict[tuple[int, int], list[int]] = {}
    twice = set(paths) - set(once)
    inodes = {(state.st_dev, state.st_ino) for state in (path.stat() for path in twice)}
    for path in [*once, *sorted(twice)]:
        state = path.stat()
        key = state.st_dev, state.st_ino
        if key in inodes and (path in twice or key not in groups):  # hard links are files of their own
            groups.setdefault(key, []).append(places[path])
    return sorted(group for group in groups.values() if len(group) > 1)


def _empty_classes(root: Path, insides: set[str]) -> list[str]:
    """Returns the folders without pictures at the top and one below it, where class folders lie."""
    full = {"/".join(inside.split("/")[:depth]) for inside in insides for depth in (1, 2)}
    found = []
    for folder in _folders(root):
        below = _folders(folder)
        found += [path.relative_to(root).as_posix() for path in (folder, *below)]
    return [inside for inside in found if inside not in full]


def _folders(folder: Path) -> list[Path]:
    if isinstance(folder, InShards):
        return [path for path in folder.iterdir() if path.is_dir()]
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not is_hidden(entry.name) and entry.is_dir())


def _options(long_side: int) -> list[object]:
    return [long_side, QUALITY, PIL.__version__] if long_side else [0]


def _digest(told: object) -> str:
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()
