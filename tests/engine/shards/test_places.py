"""Pictures in shards are those of the folder: the same paths in the same order, bytes, pixels, faults and duplicates."""

import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.files import read_text
from convmae.engine.pictures.duplicates import same_files
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import look_at, read_image
from convmae.engine.pictures.reading import Reading
from convmae.engine.regular_files import check_regular
from convmae.engine.shards.places import InShards, as_path, place

Pack = Callable[..., Path]


def seen(path: Path, reading: Reading = Reading()) -> object:  # noqa: B008
    """What a picture is read as, or what is said of it, without the folder's name."""
    try:
        pixels = np.asarray(read_image(path, reading))
        return pixels.shape, pixels.tobytes(), look_at(path, reading)
    except UserError as error:
        return str(error).replace(str(path), "PATH").replace(repr(str(path)), "PATH").partition(" at 0x")[0]


def test_the_same_pictures_in_the_same_order(tree: Path, tmp_path: Path, packed: Pack) -> None:
    shards = packed(tree, tmp_path / "shards", "--per-shard", "4")
    for inside in ("", "a", "c", "c/deep", "a b", "a.b"):
        there, here = list_images(tree / inside), list_images(shards / inside)
        assert [path.relative_to(tree) for path in there] == [path.relative_to(shards) for path in here]
        assert [path.read_bytes() for path in there] == [path.read_bytes() for path in here]
        assert here == sorted(here)
        assert all(isinstance(path, InShards) for path in here)


@pytest.mark.parametrize("reading", [Reading(), Reading(channels=1), Reading(range=(0, 4095)), Reading(max_pixels=100)])
def test_every_kind_is_read_as_from_the_folder(reading: Reading, tree: Path, tmp_path: Path, packed: Pack) -> None:
    shards = packed(tree, tmp_path / "shards")
    for there, here in zip(list_images(tree), list_images(shards), strict=True):
        said, told = seen(there, reading), seen(here, reading)
        if isinstance(said, str) and "cannot identify" in said:  # Pillow names the file or what stands for it
            assert isinstance(told, str)
            assert "cannot identify" in told
        else:
            assert said == told, here


def test_arrays_and_planes_are_read_as_from_the_folder(tmp_path: Path, packed: Pack) -> None:
    (tmp_path / "arrays").mkdir()
    for number in range(3):
        np.save(tmp_path / "arrays" / f"{number}.npy", np.arange(5 * 8 * 9, dtype=np.uint16).reshape(8, 9, 5) + number)
    shards = packed(tmp_path / "arrays", tmp_path / "shards")
    for number in range(3):
        found = [seen(path / f"{number}.npy", Reading(channels=5)) for path in (tmp_path / "arrays", place(shards))]
        assert found[0] == found[1]
        assert found[0][0] == (5, 8, 9)  # type: ignore[index]


def test_a_path_in_shards_does_what_a_path_does(tree: Path, tmp_path: Path, packed: Pack) -> None:
    shards = place(packed(tree, tmp_path / "shards"))
    path = list_images(shards / "c")[0]
    assert (path.name, path.suffix, path.parent.name, str(path)) == ("1.jpg", ".jpg", "deep", f"{shards}/c/deep/1.jpg")
    assert path == Path(path)
    assert hash(path) == hash(Path(path))
    assert (path.is_file(), path.is_dir(), path.exists(), path.is_symlink()) == (True, False, True, False)
    assert (path.parent.is_dir(), path.parent.is_file(), (path.parent / "2.jpg").exists()) == (True, False, False)
    assert sorted(one.name for one in shards.iterdir()) == ["a", "a b", "a-.jpg", "a.b", "c", "z.jpg", "ü"]
    assert path.stat().st_size == (tree / "c" / "deep" / "1.jpg").stat().st_size
    check_regular(path)
    with path.open("rb") as file:
        assert file.read() == path.read_bytes()
    with pytest.raises(UserError, match=r"is a folder; expected a file"):
        check_regular(path.parent)
    with pytest.raises(UserError, match=r"There is no picture .*/2\.jpg"):
        read_image(path.parent / "2.jpg")
    with pytest.raises(UserError, match=r"There is no folder .*/nowhere: expected one of the tree"):
        list_images(shards / "nowhere")
    with pytest.raises(OSError, match="read as bytes alone"):
        path.open("w")


def test_a_folder_that_is_no_shards_is_a_plain_path(tree: Path) -> None:
    assert type(place(tree / "a")) is type(Path())
    assert type(as_path(tree / "a" / "1.jpg")) is type(Path())
    assert type(place("picture.jpg")) is type(Path())


def test_a_text_a_relative_path_and_one_in_the_folder_mean_the_same(
    tree: Path, tmp_path: Path, packed: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(tree, tmp_path / "shards")
    expected = (tree / "z.jpg").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert place("shards/z.jpg").read_bytes() == place(tmp_path / "shards" / "z.jpg").read_bytes() == expected
    assert len(list_images("shards")) == len(list_images(tree))
    monkeypatch.chdir(tmp_path / "shards")
    assert place("z.jpg").read_bytes() == expected
    assert [str(path) for path in list_images(".")] == [str(path.relative_to(tree)) for path in list_images(tree)]


def test_what_lies_beside_class_folders_is_read(classes: Path, tmp_path: Path, packed: Pack) -> None:
    shards = place(packed(classes, tmp_path / "shards"))
    assert read_text(shards / "classes.txt") == (classes / "classes.txt").read_text()
    assert (shards / "classes.txt").is_file()
    assert not (shards / "others.txt").is_file()


def test_links_count_once_where_they_did(tmp_path: Path, packed: Pack, picture: Callable) -> None:
    for folder in ("a", "b", "c", "d"):
        (tmp_path / "tree" / folder).mkdir(parents=True)
    picture(0).save(tmp_path / "tree" / "b" / "own.jpg")
    picture(1).save(tmp_path / "tree" / "a" / "0.jpg")
    os.link(tmp_path / "tree" / "a" / "0.jpg", tmp_path / "tree" / "c" / "hard.jpg")
    for name in ("a/link.jpg", "c/link.jpg", "c/other.jpg"):
        (tmp_path / "tree" / name).symlink_to(tmp_path / "tree" / "b" / "own.jpg")
    (tmp_path / "tree" / "d" / "soft.jpg").symlink_to(tmp_path / "tree" / "a" / "0.jpg")
    shards = packed(tmp_path / "tree", tmp_path / "shards")
    for once in (False, True):
        for inside in ("", "a", "c"):
            there, here = (list_images(root / inside, once=once) for root in (tmp_path / "tree", shards))
            assert [one.relative_to(tmp_path / "tree") for one in there] == [one.relative_to(shards) for one in here]
    assert len(list_images(shards, once=True)) == 3


def test_the_same_duplicates_are_found_without_reading(
    tree: Path, tmp_path: Path, packed: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(tree / "a" / "1.jpg", tree / "c" / "copy.jpg")
    (tree / "c" / "link.jpg").symlink_to(tree / "a" / "10.jpg")
    shards = packed(tree, tmp_path / "shards")
    there, here = list_images(tree), list_images(shards)
    expected = same_files(there), same_files(there[:7], there)
    monkeypatch.setattr(InShards, "open", None)
    assert (same_files(here), same_files(here[:7], here)) == expected
    assert len(expected[0]) == 2


def test_forked_and_spawned_processes_and_threads_read_the_same(tree: Path, tmp_path: Path, packed: Pack) -> None:
    paths = list_images(packed(tree, tmp_path / "shards", "--per-shard", "3"))
    expected = [path.read_bytes() for path in paths]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(Path.read_bytes, paths * 20)) != []
        assert list(threads.map(InShards.read_bytes, paths * 20)) == expected * 20
    for start in ("fork", "spawn"):
        with multiprocessing.get_context(start).Pool(2) as pool:
            assert pool.map(InShards.read_bytes, paths) == expected
    assert pickle.loads(pickle.dumps(paths)) == paths


def test_more_shards_than_stay_open(tmp_path: Path, packed: Pack, picture: Callable) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(130):
        picture(number, 8, 8).save(tmp_path / "tree" / f"{number:03d}.jpg")
    paths = list_images(packed(tmp_path / "tree", tmp_path / "shards", "--per-shard", "1"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [path.read_bytes() for path in paths] == [(tmp_path / "tree" / p.name).read_bytes() for p in paths]
    assert len(os.listdir("/proc/self/fd")) - before <= 64


def test_shards_that_were_packed_anew_are_read_anew(tree: Path, tmp_path: Path, packed: Pack) -> None:
    shards = packed(tree, tmp_path / "shards")
    assert len(list_images(shards)) == len(list_images(tree))
    (tree / "z.jpg").unlink()
    packed(tree, shards, "--overwrite")
    assert list_images(shards)[-1].read_bytes() == list_images(tree)[-1].read_bytes()


def test_a_shard_that_vanishes_is_said_and_skipped_by_none(tree: Path, tmp_path: Path, packed: Pack) -> None:
    shards = packed(tree, tmp_path / "shards", "--per-shard", "1")
    paths = list_images(shards)
    (shards / "shard-000003.tar").unlink()
    with pytest.raises(
        Fault, match=r"shard-000003\.tar can't be read \(it is not there any more\).*--resume"
    ) as caught:
        read_image(paths[3])
    assert caught.value.kind != "unreadable pictures"


def test_paths_stay_in_the_shards(tree: Path, tmp_path: Path, packed: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tree, tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    for path in (place("shards/a").absolute(), place("shards/a").resolve()):
        assert isinstance(path, InShards)
        assert str(path) == str(tmp_path / "shards" / "a")
    far = place("s3://bucket/shards/a")
    assert str(far.absolute()) == str(far.resolve()) == "s3://bucket/shards/a"


def test_addresses_of_this_machine_are_folders_and_chains_are_refused(tree: Path, tmp_path: Path, packed: Pack) -> None:
    shards = packed(tree, tmp_path / "shards")
    for given in (f"file://{shards}", Path(f"file://{shards}"), f"local://{shards}"):
        assert list_images(given) == list_images(shards)
    assert list_images(f"file://{tree}") == list_images(tree)
    with pytest.raises(
        UserError, match="simplecache::s3://bucket/shards is a chain of addresses; expected one, such as s3"
    ):
        place("simplecache::s3://bucket/shards")
