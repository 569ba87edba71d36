"""Shards that are not as their index says, and indexes that are none: one message each, before anything is trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convmae.engine.errors import UserError
from convmae.engine.faults import UNREADABLE, Fault
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import read_image
from convmae.engine.pictures.reading import Unreadable, reading_picture
from convmae.engine.shards.index import INDEX

Pack = Callable[..., Path]


@pytest.fixture
def shards(tree: Path, tmp_path: Path, packed: Pack) -> Path:
    return packed(tree, tmp_path / "shards", "--per-shard", "5")


def change(shards: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    tree = json.loads((shards / INDEX).read_bytes())
    edit(tree)
    (shards / INDEX).write_text(json.dumps(tree))


def test_a_shard_that_is_cut_off(shards: Path) -> None:
    whole = (shards / "shard-000001.tar").read_bytes()
    (shards / "shard-000001.tar").write_bytes(whole[:-700])
    with pytest.raises(
        UserError, match=rf"shard-000001\.tar is cut off: found [\d,]+ bytes, expected {len(whole):,} by "
    ):
        list_images(shards)


def test_a_shard_of_another_packing(shards: Path) -> None:
    (shards / "shard-000001.tar").write_bytes((shards / "shard-000001.tar").read_bytes() + b"\0" * 512)
    with pytest.raises(UserError, match=r"shard-000001\.tar is another: found"):
        list_images(shards)


def test_a_shard_that_is_not_there(shards: Path) -> None:
    (shards / "shard-000002.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000002\.tar can't be read \(it is not there\)"):
        list_images(shards)


def test_other_bytes_than_were_packed_stop_a_run_that_skips_unreadable_pictures(shards: Path) -> None:
    content = bytearray((shards / "shard-000001.tar").read_bytes())
    place = content.index(b"\xff\xd8")
    content[place + 200] ^= 1
    (shards / "shard-000001.tar").write_bytes(content)
    paths = list_images(shards)
    with (
        pytest.raises(Fault, match=r"does not hold a/.* where .* says: found other bytes") as caught,
        reading_picture(),
    ):
        list(map(read_image, paths[5:10]))
    assert not isinstance(caught.value, Unreadable)
    assert caught.value.kind != UNREADABLE
    read_image(paths[0])


def test_a_broken_picture_is_one_that_a_run_skips(shards: Path) -> None:
    broken = next(path for path in list_images(shards) if path.name == "broken.jpg")
    with pytest.raises(Unreadable), reading_picture():
        read_image(broken)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_an_index_that_is_cut_off(cut: int, shards: Path) -> None:
    (shards / INDEX).write_bytes((shards / INDEX).read_bytes()[:cut])
    with pytest.raises(UserError, match=r"is no index of shards, or is cut off .*tools/pack\.py"):
        list_images(shards)


def test_an_index_of_another_count(shards: Path) -> None:
    change(shards, lambda tree: tree["paths"].pop())
    with pytest.raises(UserError, match=r"contradicts itself: its shards hold 19 pictures, and 18 are listed"):
        list_images(shards)


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no index of shards: found 'other'": lambda tree: tree.update(format="other"),
    "no index of shards: found 'None'": dict.clear,
    "can't be used: KeyError": lambda tree: tree.pop("digests"),
    "can't be used: TypeError": lambda tree: tree.update(paths=[1] * 19),
    "can't be used: ValueError": lambda tree: tree.update(starts=["x"] * 19),
    "can't be used: .*Error": lambda tree: tree.update(shards=[["a", 1]]),
    "can't be used: (Overflow|Value)Error": lambda tree: tree["sizes"].__setitem__(0, 2**80),
    "differ in length": lambda tree: tree["starts"].pop(),
    "beyond the end": lambda tree: tree["sizes"].__setitem__(-1, 10**9),
    "beyond the end of their shards": lambda tree: tree["starts"].__setitem__(0, -512),
    "'../a.jpg' is no path": lambda tree: tree["paths"].__setitem__(0, "../a.jpg"),
    "'/etc/passwd' is no path": lambda tree: tree["paths"].__setitem__(0, "/etc/passwd"),
    "'a//b.jpg' is no path": lambda tree: tree["paths"].__setitem__(0, "a//b.jpg"),
    "not in order": lambda tree: tree["paths"].reverse(),
    "names are no names": lambda tree: tree["shards"][0].__setitem__(0, "../shard-000000.tar"),
    "links are of": lambda tree: tree.update(links=[[0, 99]]),
}


@pytest.mark.parametrize("said", EDITS)
def test_an_index_that_can_not_be(said: str, shards: Path) -> None:
    change(shards, EDITS[said])
    with pytest.raises(UserError, match=said):
        list_images(shards)


def test_an_index_that_another_packing_left(tree: Path, shards: Path, tmp_path: Path, packed: Pack) -> None:
    other = packed(tree, tmp_path / "other", "--per-shard", "5", "--long-side", "32")
    (shards / INDEX).write_bytes((other / INDEX).read_bytes())
    with pytest.raises(UserError, match=r"is another|is cut off"):
        list_images(shards)
