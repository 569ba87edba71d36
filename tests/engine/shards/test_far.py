"""Shards behind an address: the same pictures, a cache that stays within its size, and one message for whatever is amiss."""

import errno
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import read_image
from convmae.engine.shards import cache, places, stores
from convmae.engine.shards.index import INDEX
from convmae.engine.shards.places import place

Pack = Callable[..., Path]
BLOCK = 1024


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, in blocks that a few pictures fill."""
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "BLOCK", BLOCK)
    monkeypatch.setattr("convmae.engine.shards.shards.BLOCK", BLOCK)
    monkeypatch.setattr(stores, "_PAUSE", 0.001)


@pytest.fixture
def memory(tree: Path, tmp_path: Path, packed: Pack) -> Iterator[str]:
    """The address of the tree's shards in fsspec's memory."""
    system = fsspec.filesystem("memory")
    for path in packed(tree, tmp_path / "shards", "--per-shard", "5").iterdir():
        system.pipe_file(f"/data/shards/{path.name}", path.read_bytes())
    yield "memory://data/shards"
    system.rm("/data", recursive=True)
    places._opened.pop("memory://data/shards", None)


def kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.name.isdigit())


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read over the network, from now on."""
    asked: list[str] = []
    real = stores.FarStore.read

    def read(self: stores.FarStore, file: str, start: int, stop: int) -> bytes:
        asked.append(file)
        return real(self, file, start, stop)

    monkeypatch.setattr(stores.FarStore, "read", read)
    return asked


def test_memory_holds_the_same_pictures(tree: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = list_images(tree), list_images(memory)
    assert [path.relative_to(tree) for path in there] == [path.relative_to(place(memory)) for path in here]
    assert str(here[0]).startswith("memory://data/shards/a/")
    for _ in range(2):
        assert [path.read_bytes() for path in there] == [path.read_bytes() for path in here]
    asked = counted(monkeypatch)
    assert [path.read_bytes() for path in there] == [path.read_bytes() for path in here]
    assert asked == []  # all of it is kept
    assert list_images(Path(memory)) == here  # argparse makes a path of an address
    assert [one.name for one in list_images(f"{memory}/a")] == [one.name for one in list_images(tree / "a")]
    assert place(f"{memory}/a").is_dir()
    assert not place(f"{memory}/nothing").is_dir()


def test_http_holds_the_same_pictures(tree: Path, tmp_path: Path, packed: Pack, served: Callable) -> None:
    pytest.importorskip("aiohttp", reason="fsspec's HTTP takes aiohttp, of the extra 'test'")
    packed(tree, tmp_path / "web" / "shards", "--per-shard", "5")
    with served(tmp_path / "web") as (address, asked):
        here = list_images(f"{address}/shards")
        expected = [path.read_bytes() for path in list_images(tree)]
        assert [path.read_bytes() for path in here] == expected
        assert all(given for name, given in asked if name.endswith(".tar"))  # parts of files, never all of one
        with multiprocessing.get_context("fork").Pool(2) as pool:  # fsspec's threads don't go along
            assert pool.map(places.InShards.read_bytes, here, 1) == expected
        shutil.rmtree(tmp_path / "cache")
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(places.InShards.read_bytes, here, 1) == expected
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(places.InShards.read_bytes, here) == expected
        (tmp_path / "web" / "shards" / "shard-000002.tar").unlink()
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(Fault, match=r"http://.*shard-000002\.tar can't be read \(it is not there any more\)"):
            here[10].read_bytes()


def test_a_server_that_sends_whole_files_is_refused(tree: Path, tmp_path: Path, packed: Pack, served: Callable) -> None:
    pytest.importorskip("aiohttp", reason="fsspec's HTTP takes aiohttp, of the extra 'test'")
    packed(tree, tmp_path / "web" / "shards")
    with (
        served(tmp_path / "web", ranges=False) as (address, _),
        pytest.raises(UserError, match="the server sends whole files where parts"),
    ):
        read_image(list_images(f"{address}/shards")[0])


@pytest.mark.parametrize("blocks", [0, 1, 5, 1000])
def test_the_cache_stays_within_its_size(
    blocks: int, tree: Path, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.SIZE, str(blocks * BLOCK / 1e9))
    expected = [path.read_bytes() for path in list_images(tree)]
    for _ in range(2):
        assert [path.read_bytes() for path in list_images(memory)] == expected
    assert kept(tmp_path / "cache") <= blocks * BLOCK
    if blocks > 1:
        assert kept(tmp_path / "cache") >= min(blocks - 2, 15) * BLOCK
    asked = counted(monkeypatch)
    assert [path.read_bytes() for path in list_images(memory)] == expected
    assert len(asked) <= (0 if blocks == 1000 else len(expected))


def test_data_sets_share_the_cache_and_the_one_not_used_makes_room(
    tree: Path, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = fsspec.filesystem("memory")
    system.copy("/data/shards", "/data/others", recursive=True)
    total = sum(-(-size // BLOCK) * BLOCK for name in system.glob("/data/shards/*.tar") for size in [system.size(name)])
    monkeypatch.setenv(cache.SIZE, str((total + 3 * BLOCK) / 1e9))
    expected = [path.read_bytes() for path in list_images(tree)]
    assert [path.read_bytes() for path in list_images(memory)] == expected
    assert [path.read_bytes() for path in list_images("memory://data/others")] == expected
    first, second = places._opened[memory][1].cache, places._opened["memory://data/others"][1].cache
    assert kept(first.folder) > 0.7 * total  # used by this process, it stays
    assert second.kept == 3
    assert kept(tmp_path / "cache") <= total + 3 * BLOCK
    del places._opened[memory], places._opened["memory://data/others"], first, second
    assert [path.read_bytes() for path in list_images("memory://data/others")] == expected
    assert places._opened["memory://data/others"][1].cache.kept * BLOCK == total  # nobody uses the first any more
    assert kept(tmp_path / "cache") <= total + 3 * BLOCK
    del places._opened["memory://data/others"]


def test_a_damaged_block_is_read_anew(tree: Path, memory: str, tmp_path: Path) -> None:
    here, expected = list_images(memory), [path.read_bytes() for path in list_images(tree)]
    assert [path.read_bytes() for path in here] == expected
    for number, path in enumerate(sorted(one for one in (tmp_path / "cache").rglob("*") if one.name.isdigit())):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if number % 2 else content[::-1])
    assert [path.read_bytes() for path in here] == expected


def test_a_full_disk(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = list_images(memory)

    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(
            Fault, match=r"can't keep what is read of shards \(No space left on device\); make room"
        ) as caught:
            here[0].read_bytes()
    assert caught.value.kind != "unreadable pictures"
    assert list((tmp_path / "cache").rglob(".*.part")) == []
    assert here[0].read_bytes()  # once there is room
    places._opened.clear()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=BLOCK))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match=rf"can't keep .* are free.*{cache.FOLDER}, or fewer GB by {cache.SIZE}"):
        list_images(memory)


@pytest.mark.parametrize("given", ["much", "-1", "nan", "inf", "1e12"])
def test_a_size_that_is_none(given: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, given)
    with pytest.raises(UserError, match=rf"{cache.SIZE} is '{given}'; expected how many GB"):
        list_images(memory)


def test_an_address_that_is_not_there() -> None:
    pytest.importorskip("aiohttp", reason="fsspec's HTTP takes aiohttp, of the extra 'test'")
    with pytest.raises(
        UserError, match=rf"There are no shards at memory://nowhere/at/all: expected a folder with {INDEX}"
    ):
        list_images("memory://nowhere/at/all")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/x can't be read: \w+: .*the network are right"):
        list_images("http://127.0.0.1:9/x")


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(
        UserError, match=r's3://bucket/x takes a package.*Install s3fs.*pip install s3fs, or "convmae\[remote\]"'
    ):
        list_images("s3://bucket/x")


def test_a_protocol_that_nobody_knows() -> None:
    with pytest.raises(UserError, match=r"abc://bucket/x: .*rotocol not known: abc.*Expected a folder, or an address"):
        list_images("abc://bucket/x")


class NoCredentialsError(Exception):
    """As botocore calls it."""


class RefusedError(OSError):
    """As a server's answer."""

    status = 403


@pytest.mark.parametrize(
    "error", [NoCredentialsError("Unable to locate credentials"), PermissionError("Forbidden"), RefusedError()]
)
def test_credentials_that_are_missing(error: Exception, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def refused(*_: Any, **__: Any) -> bytes:
        tries.append(1)
        raise error

    monkeypatch.setattr(fsspec.filesystem("memory").__class__, "cat_file", refused)
    with pytest.raises(UserError, match=r"memory://data/shards can't be read: .*Give the credentials"):
        list_images(memory)
    assert len(tries) == 1  # asking again changes nothing


def test_a_network_that_fails_for_a_moment(tree: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory").__class__
    real, fails = system.cat_file, [TimeoutError("slow"), ConnectionResetError("reset")]

    def cat_file(self: Any, *args: Any, **options: Any) -> bytes:
        if fails:
            raise fails.pop()
        return real(self, *args, **options)

    monkeypatch.setattr(system, "cat_file", cat_file)
    here = list_images(memory)
    fails += [TimeoutError("slow")] * 3
    with pytest.raises(Fault, match=r"can't be read: TimeoutError: slow") as caught:
        here[0].read_bytes()
    assert caught.value.kind != "unreadable pictures"
    assert here[0].read_bytes() == list_images(tree)[0].read_bytes()
