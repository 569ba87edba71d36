"""tools/pack.py: the same bytes whatever the processes, tar files that others read, pictures that are cut, and going on."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from convmae.engine.packing import writing
from convmae.engine.packing.held import NOTES
from convmae.engine.packing.plan import member_names
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import read_image
from convmae.engine.shards.index import INDEX, read_index
from convmae.tools import cli, pack

Pack = Callable[..., Path]
# WebDataset's own rule for the sample and the field of a member.
KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_bytes_whatever_the_number_of_processes(tree: Path, tmp_path: Path, packed: Pack) -> None:
    one = packed(tree, tmp_path / "one", "--per-shard", "3", "--long-side", "32")
    several = packed(tree, tmp_path / "several", "--per-shard", "3", "--long-side", "32", "--processes", "3")
    assert contents(one) == contents(several)
    for path in tree.rglob("*"):
        os.utime(path, (1, 1))
    assert contents(packed(tree, tmp_path / "again", "--per-shard", "3", "--long-side", "32")) == contents(one)


def test_tar_files_hold_the_pictures_by_webdatasets_convention(tree: Path, tmp_path: Path, packed: Pack) -> None:
    shards = packed(tree, tmp_path / "shards", "--per-shard", "4")
    index = read_index((shards / INDEX).read_bytes(), "index")
    members = []
    for shard in index.shards:
        with tarfile.open(shards / shard.name) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                members.append((member, file.read()))
    assert [content for _, content in members] == [path.read_bytes() for path in list_images(tree)]
    assert all((one.mtime, one.uid, one.gid, one.uname, one.gname) == (0, 0, 0, "", "") for one, _ in members)
    keys = [KEY.match(one.name) for one, _ in members]
    assert all(keys)
    assert len({match[1] for match in keys if match}) == len(members)  # each a sample of its own
    assert {match[2].lower() for match in keys if match} == {"jpg", "png", "tif"}
    for number, (member, _) in enumerate(members):
        assert index.entry(number).start == member.offset_data
        assert Path(member.name).parent == Path(index.paths[number]).parent


def test_names_in_tar_files() -> None:
    paths = ["a.b/1.5.jpg", "a.b/1.jpg", "a.b/1.png", "a.b/1.tif", "a.b/1%2E5.jpg", "a.b/1-2.jpg", "x"]
    names = ["a.b/1%2E5.jpg", "a.b/1.jpg", "a.b/1%2D2.png", "a.b/1%2D3.tif", "a.b/1%252E5.jpg", "a.b/1-2.jpg", "x"]
    assert member_names(paths) == names


def test_long_names_and_names_that_are_no_utf8(tmp_path: Path, packed: Pack, picture: Callable) -> None:
    (tmp_path / "tree" / ("d" * 120)).mkdir(parents=True)
    picture(0).save(tmp_path / "tree" / ("d" * 120) / f"{'n' * 150}.jpg")
    picture(1).save(io.BytesIO(), "JPEG")
    odd = os.fsencode(tmp_path / "tree") + b"/\xff\xe9.jpg"
    with open(odd, "wb") as file:
        picture(1).save(file, "JPEG")
    shards = packed(tmp_path / "tree", tmp_path / "shards")
    there, here = list_images(tmp_path / "tree"), list_images(shards)
    assert [one.relative_to(tmp_path / "tree") for one in there] == [one.relative_to(shards) for one in here]
    assert [one.read_bytes() for one in there] == [one.read_bytes() for one in here]


def test_pictures_are_cut_and_stand_upright(
    tree: Path, tmp_path: Path, packed: Pack, capsys: pytest.CaptureFixture
) -> None:
    shards = packed(tree, tmp_path / "shards", "--long-side", "30")
    said = capsys.readouterr()
    told = "4 as they are, for no JPEG or PNG of 8 bits in grey or RGB, 1 as they are, for they can't be read, 14 cut"
    assert re.search(rf"19 pictures in 1 shards, [\d.]+ MB: {told}\n", said.out)
    for there, here in zip(list_images(tree), list_images(shards), strict=True):
        if there.name in ("broken.jpg", "deep.png", "palette.png", "grey.tif", "planes.tif"):
            assert there.read_bytes() == here.read_bytes()
            continue
        small, large = read_image(here), read_image(there)
        assert isinstance(small, Image.Image)
        assert isinstance(large, Image.Image)
        assert max(small.size) == 30
        expected = ImageOps.contain(large, (30, 30), Image.Resampling.LANCZOS)
        assert small.size == expected.size
        assert np.abs(np.asarray(small, float) - np.asarray(expected, float)).mean() < 12  # of JPEG
        with Image.open(io.BytesIO(here.read_bytes())) as image, Image.open(there) as before:
            assert image.format == before.format
            assert 274 not in image.getexif()
    assert "broken.jpg can't be read as a picture" in said.err


def test_what_is_small_enough_stays_byte_for_byte(tree: Path, tmp_path: Path, packed: Pack) -> None:
    shards = packed(tree, tmp_path / "shards", "--long-side", "60")
    assert [path.read_bytes() for path in list_images(tree)] == [path.read_bytes() for path in list_images(shards)]


def test_shards_can_be_packed_again(tree: Path, tmp_path: Path, packed: Pack) -> None:
    first = packed(tree, tmp_path / "first", "--per-shard", "3")
    direct = packed(tree, tmp_path / "direct", "--long-side", "32")
    assert contents(packed(first, tmp_path / "second", "--long-side", "32")) == contents(direct)


def test_classes_without_pictures_are_not_lost(classes: Path, tmp_path: Path, packed: Pack) -> None:
    (classes / "train" / "three").mkdir()
    shards = packed(classes, tmp_path / "shards")
    from convmae.engine.probes.class_folders import class_folders
    from convmae.engine.shards.places import place

    assert class_folders(place(shards / "train")) == class_folders(classes / "train") == ["one", "three", "two"]


def test_run_again_it_does_nothing(tree: Path, tmp_path: Path, packed: Pack, capsys: pytest.CaptureFixture) -> None:
    shards = packed(tree, tmp_path / "shards")
    before = {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    packed(tree, shards)
    assert "holds the shards of these pictures already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_what_others_packed_is_replaced_only_if_asked(
    tree: Path, tmp_path: Path, packed: Pack, capsys: pytest.CaptureFixture
) -> None:
    shards = packed(tree, tmp_path / "shards", "--per-shard", "2")
    assert pack.main([str(tree), str(shards), "--long-side", "20"]) == 2
    assert "holds shards of other pictures or options" in capsys.readouterr().err
    expected = contents(packed(tree, tmp_path / "other", "--per-shard", "9"))
    assert contents(packed(tree, shards, "--per-shard", "9", "--overwrite")) == expected
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "shard-000000.tar").write_text("theirs")
    assert pack.main([str(tree), str(tmp_path / "theirs")]) == 2
    assert (tmp_path / "theirs" / "shard-000000.tar").read_text() == "theirs"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere", "shards"], "There is no folder nowhere"),
        (["tree", "tree/shards"], "lie in one another"),
        (["tree/a", "tree"], "lie in one another"),
        (["tree", "shards", "--processes", "0"], "--processes is 0; expected 1 or more"),
        (["tree", "shards", "--long-side", "-1"], "--long-side is -1; expected 0 or more"),
        (["tree", "tree/z.jpg/shards"], "lie in one another"),
        (["tree/a", "tree/z.jpg"], "can't be written"),
        (["empty", "shards"], "holds no pictures"),
    ],
)
def test_what_can_not_be_packed(
    options: list[str],
    said: str,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert cli.main(["pack", *options]) == 2
    assert said in capsys.readouterr().err


def many(tmp_path: Path, picture: Callable, count: int = 60) -> Path:
    (tmp_path / "many").mkdir()
    for number in range(count):
        picture(number, 400, 300).save(tmp_path / "many" / f"{number:03d}.jpg")
    return tmp_path / "many"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_and_run_again_it_goes_on(
    how: signal.Signals, tmp_path: Path, packed: Pack, picture: Callable
) -> None:
    root = many(tmp_path, picture)
    options = ["--long-side", "200", "--per-shard", "2"]
    whole = contents(packed(root, tmp_path / "whole", *options))
    shards = tmp_path / "shards"
    command = [sys.executable, "-m", "convmae.tools.pack", str(root), str(shards), "--processes", "2", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while len(list(shards.glob(f"{NOTES}/*.json"))) < 3 and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    if process.returncode == 0:
        pytest.skip("it was done before it could be interrupted")
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert not (shards / INDEX).exists()
    time.sleep(1.5 if how == signal.SIGKILL else 0)  # the processes that it started end within a second
    kept = {path: path.stat().st_mtime_ns for path in shards.glob("shard-*.tar") if known(shards, path)}
    assert kept
    assert contents(packed(root, shards, *options)) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def known(shards: Path, path: Path) -> bool:
    note = shards / NOTES / f"{path.name}.json"  # which says before it is written that it will be
    return note.is_file() and "size" in json.loads(note.read_text())


def test_a_picture_that_changed_meanwhile_is_packed_anew(tmp_path: Path, packed: Pack, picture: Callable) -> None:
    root = many(tmp_path, picture, 6)
    shards = tmp_path / "shards"
    (shards / NOTES).mkdir(parents=True)
    from convmae.engine.packing.plan import make_plan

    for shard in make_plan(root, 0, 2, lambda fault: None).shards[:2]:
        writing._write(shard, shards)
    content = (root / "001.jpg").read_bytes()
    (root / "001.jpg").write_bytes(content[:-2] + b"\0\0")
    os.utime(root / "001.jpg", (5, 5))
    packed(root, shards, "--per-shard", "2")
    assert [path.read_bytes() for path in list_images(shards)] == [path.read_bytes() for path in list_images(root)]


def test_a_full_disk_and_a_picture_that_is_gone_are_one_message(
    tmp_path: Path, picture: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    root = many(tmp_path, picture, 4)
    real = writing.pack_picture

    def fails(error: OSError) -> Callable:
        def call(path: Path, long_side: int) -> object:
            if path.name == "003.jpg":
                raise error
            return real(path, long_side)

        return call

    monkeypatch.setattr(writing, "pack_picture", fails(FileNotFoundError(2, "No such file or directory")))
    argv = [str(root), str(tmp_path / "shards"), "--per-shard", "1", "--processes", "1"]
    assert pack.main(argv) == 2
    assert "003.jpg can't be read (No such file or directory): it was there when" in capsys.readouterr().err
    assert not (tmp_path / "shards" / INDEX).exists()
    monkeypatch.undo()
    (tmp_path / "shards" / "shard-000003.tar").mkdir()  # no file can take its place; the writer is past all others
    assert pack.main(argv) == 2
    assert "shard-000003.tar can't be written (Is a directory)" in capsys.readouterr().err
    (tmp_path / "shards" / "shard-000003.tar").rmdir()
    assert pack.main(argv) == 0
    assert len(list_images(tmp_path / "shards")) == 4


@pytest.mark.parametrize("packed_from", ["", "annotations", "annotations/training"])
def test_label_maps_are_not_cut(
    packed_from: str, tmp_path: Path, picture: Callable, packed: Pack, capsys: pytest.CaptureFixture
) -> None:
    for folder in ("images/training", "annotations/training"):
        (tmp_path / "ade" / folder).mkdir(parents=True)
        picture(1, 60, 40).convert("L").save(tmp_path / "ade" / folder / "1.png")
    root = tmp_path / "ade" / packed_from
    assert pack.main([str(root), str(tmp_path / "shards"), "--long-side", "20"]) == 2
    said = capsys.readouterr().err
    assert f"1.png lies in a folder 'annotations', ADE20K's name for label maps (1 of {1 if packed_from else 2}" in said
    assert not list((tmp_path / "shards").glob("shard-*"))
    packed(root, tmp_path / "whole")  # as they are they can be packed
    packed(tmp_path / "ade" / "images", tmp_path / "pictures", "--long-side", "20")
