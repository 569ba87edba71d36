"""What a folder for shards holds already, and what of that is ours: the user's own files stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from convmae.engine.errors import UserError
from convmae.engine.shards.index import INDEX, read_index

NOTES = ".convmae_packing"  # folder of what is known of the shards until all are there; no user's has this name
CARRIED = ("classes.txt",)  # what is read beside class folders
_SHARDS = "shard-??????.tar"


class Held(NamedTuple):
    """What is there: what its index tells of a tree (None without one, "" of a broken one), and which shards are ours."""

    source: str | None
    shards: frozenset[str]
    begun: bool


def look(output: Path) -> Held:
    """Returns what a folder holds of ours: the shards that its index lists, and those that an interrupted packing began."""
    begun = shards_begun(output)
    try:
        index = read_index((output / INDEX).read_bytes(), str(output / INDEX))
    except FileNotFoundError:
        return Held(None, begun, bool(begun))
    except UserError:  # which they were can't be known
        return Held("", begun | {path.name for path in output.glob(_SHARDS)}, bool(begun))
    return Held(index.source, begun | {shard.name for shard in index.shards}, bool(begun))


def shards_begun(output: Path) -> frozenset[str]:
    """Returns the names of the shards of which there are notes."""
    return frozenset(path.name.removesuffix(".json") for path in (output / NOTES).glob(f"{_SHARDS}.json"))


def refuse_foreign(output: Path, held: Held, root: Path) -> None:
    """Raises UserError where shards would be written among, or a class list over, what is the user's own."""
    for path in sorted(output.glob(_SHARDS)):
        if path.name not in held.shards:
            raise UserError(f"{path} was not packed here, by what {INDEX} says; move it, or give another folder.")
    if held.source is None and not held.begun:
        for name in CARRIED:
            with contextlib.suppress(FileNotFoundError):
                if (output / name).read_bytes() != (root / name).read_bytes():
                    raise UserError(f"{output / name} is another than {root / name}; move it, or give another folder.")


def remove_held(output: Path, held: Held) -> None:
    """Removes an index, then its shards, what came with them, and what is known of those that were being written."""
    for name in (INDEX, *held.shards, *(CARRIED if held.source is not None or held.begun else ())):
        (output / name).unlink(missing_ok=True)
    remove_notes(output)


def remove_notes(output: Path) -> None:
    """Removes what is known of shards that were being written."""
    for path in (output / NOTES).glob(f"{_SHARDS}.json"):
        path.unlink(missing_ok=True)
    remove_begun(output)
    with contextlib.suppress(OSError):  # never there, or with a file in it that is not ours
        (output / NOTES).rmdir()


def remove_begun(output: Path) -> None:
    """Removes files that were not written to their ends."""
    for path in _parts(output):
        path.unlink(missing_ok=True)


def _parts(output: Path) -> Iterator[Path]:
    for name in (_SHARDS, INDEX, *CARRIED):
        yield from output.glob(f".{name}.*.part")
    yield from (output / NOTES).glob(f".{_SHARDS}.json.*.part")
