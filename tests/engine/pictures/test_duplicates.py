"""Files that hold the same bytes: in two splits, twice in one, in two classes."""

import hashlib
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convmae.engine.faults import Effect, Fault
from convmae.engine.pictures import duplicates
from convmae.engine.pictures.duplicates import check_repeated, check_shared, content_of, same_contents, same_files
from convmae.engine.pictures.images import read_image
from convmae.engine.pictures.reading import Reading


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def kinds(faults: list[Fault]) -> list[tuple[str, Effect]]:
    return [(fault.kind, fault.effect) for fault in faults]


def test_groups_are_those_of_hashing_every_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = (1, 50, 12288, 12289, 40000)
    contents = [rng.bytes(int(rng.choice(sizes))) for _ in range(20)]
    # Of equal size, and different where neither beginning, middle nor end is.
    whole = bytearray(rng.bytes(40000))
    contents += [bytes(whole), bytes(whole[:9000] + b"other" + whole[9005:]), b""]
    splits = [
        [write(tmp_path / f"{split}/{n}.jpg", contents[int(rng.integers(len(contents)))]) for n in range(60)]
        for split in range(2)
    ]
    of_content = defaultdict(list)
    for split, paths in enumerate(splits):
        for place, path in enumerate(paths):
            if path.stat().st_size:
                of_content[hashlib.sha256(path.read_bytes()).digest()].append((split, place))
    both = [group for group in of_content.values() if len({split for split, _ in group}) == 2]
    assert same_files(*splits) == sorted(both)
    within = [[(0, place) for split, place in group if split == 0] for group in of_content.values()]
    assert same_files(splits[0]) == sorted(group for group in within if len(group) > 1)


def test_only_files_of_a_size_that_both_splits_have_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [write(tmp_path / f"t{n}", bytes([n]) * (100 + n)) for n in range(20)]
    val = [write(tmp_path / f"v{n}", bytes([n]) * (110 + n)) for n in range(20)]
    read = []
    pieces = duplicates._pieces
    monkeypatch.setattr(duplicates, "_pieces", lambda file: read.append(file.path) or pieces(file))
    assert same_files(train, val) == []
    assert sorted(read) == sorted([*train[10:], *val[:10]])


def test_links_to_one_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / "store" / f"{n}.jpg", bytes([n]) * 50_000) for n in range(3)]
    links = []
    for path in paths:
        links.append(tmp_path / path.name)
        links[-1].symlink_to(path)
    os.link(paths[0], tmp_path / "hard.jpg")
    monkeypatch.setattr(duplicates, "_whole", None)
    groups = same_files(paths, [*links, tmp_path / "hard.jpg"])
    assert groups == [[(0, 0), (1, 0), (1, 3)], [(0, 1), (1, 1)], [(0, 2), (1, 2)]]


def test_at_the_start_of_a_run_a_bounded_number_of_files_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [write(tmp_path / f"t{n:03d}", bytes([n]) * 60) for n in range(200)]
    val = [write(tmp_path / f"v{n:03d}", bytes([n]) * 60) for n in range(100)]
    monkeypatch.setattr(duplicates, "LISTED", 80)
    monkeypatch.setattr(duplicates, "READ", 50)
    read = []
    pieces = duplicates._pieces
    monkeypatch.setattr(duplicates, "_pieces", lambda file: read.append(file.path) or pieces(file))
    assert same_files(train, val)  # some of them
    assert len(read) <= 100


def test_shared_pictures_are_warned_of_one_by_one(tmp_path: Path) -> None:
    train = [write(tmp_path / f"train/{n}.jpg", bytes([n]) * 30) for n in range(4)]
    val = [write(tmp_path / f"val/{n}.jpg", bytes([n]) * 30) for n in range(3, 6)]
    faults: list[Fault] = []
    check_shared(train, val, faults.append)
    assert kinds(faults) == [("pictures that are training pictures, too", Effect.DOUBTFUL)]
    assert str(faults[0]) == f"{val[0]} holds the same bytes as {train[3]}"
    faults.clear()
    check_shared(train[:2], val[1:], faults.append)
    assert faults == []
    check_shared(train, [*train[:2], *val], faults.append)
    assert str(faults[0]) == f"{train[0]} is used in training"
    assert len(faults) == 3


def test_a_shared_picture_of_another_class_is_told_apart(tmp_path: Path) -> None:
    train = [write(tmp_path / f"train/{n}.jpg", bytes([n]) * 30) for n in (0, 1, 2, 2)]
    val = [write(tmp_path / f"val/{n}.jpg", bytes([n]) * 30) for n in range(3)]
    faults: list[Fault] = []
    check_shared(train, val, faults.append, (["cat", "cat", "dog", "fox"], ["cat", "dog", "dog"]))
    other = ("pictures that are of another class in training", Effect.DOUBTFUL)
    assert kinds(faults) == [("pictures that are training pictures, too", Effect.DOUBTFUL), other, other]
    assert str(faults[1]) == f"{val[1]} holds the same bytes as {train[1]}, but is 'dog' and was learnt as 'cat'"
    assert str(faults[2]) == f"{val[2]} holds the same bytes as {train[3]}, but is 'dog' and was learnt as 'fox'"


def test_a_split_that_is_the_other_is_said_once(tmp_path: Path) -> None:
    train = [write(tmp_path / f"{n}.jpg", bytes([n]) * 30) for n in range(50)]
    faults: list[Fault] = []
    check_shared(train, list(train), faults.append)
    assert kinds(faults) == [("splits that are one and the same", Effect.DOUBTFUL)]
    assert "all 50 validation pictures" in str(faults[0])


def test_a_picture_in_two_classes_is_doubtful_and_twice_in_one_is_not(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / name, content * 9) for name, content in zip("abcd", (b"x", b"x", b"x", b"y"), strict=True)
    ]
    faults: list[Fault] = []
    labels = ["cat", "cat", "dog", "dog"]

    def contradiction(first: int, place: int) -> str | None:
        said = f"one is {labels[place]!r} and the other {labels[first]!r}"
        return said if labels[first] != labels[place] else None

    check_repeated(paths, faults.append, contradiction, contradictory="pictures in two classes")
    assert kinds(faults) == [
        ("pictures that are there more than once", Effect.NOTE),
        ("pictures in two classes", Effect.DOUBTFUL),
    ]
    assert str(faults[1]) == f"{paths[2]} holds the same bytes as {paths[0]}, but one is 'dog' and the other 'cat'"
    faults.clear()
    check_repeated(paths, faults.append)
    assert {fault.effect for fault in faults} == {Effect.NOTE}


def test_files_that_are_gone_or_empty_are_left_to_others(tmp_path: Path) -> None:
    empty = [write(tmp_path / name, b"") for name in "ab"]
    assert same_files([*empty, tmp_path / "gone"], [*empty, tmp_path / "gone"]) == []


def saved(folder: Path) -> dict[str, Path]:
    """One picture in many files, and others that are nearly it."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 36, 3), np.uint8)
    picture, paths = Image.fromarray(pixels), {}
    for name, options in {
        "a.png": {},
        "b.png": {"compress_level": 0},
        "c.bmp": {},
        "d.webp": {"lossless": True},
        "e.tif": {"compression": "tiff_lzw"},
        "f.png": {"pnginfo": None, "dpi": (72, 72)},
    }.items():
        paths[name] = folder / name
        picture.save(paths[name], **options)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned to the right
    paths["turned.png"] = folder / "turned.png"
    picture.transpose(Image.Transpose.ROTATE_90).save(paths["turned.png"], exif=turned)
    for name, other in {
        "mirrored.png": pixels[:, ::-1],
        "brighter.png": np.where(np.arange(36)[:, None] == 35, pixels ^ 1, pixels),
        "reshaped.png": pixels.reshape(36, 24, 3),
    }.items():
        paths[name] = folder / name
        Image.fromarray(np.ascontiguousarray(other)).save(paths[name])
    return paths


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_that_is_saved_anew_is_the_same_picture(channels: int, tmp_path: Path) -> None:
    paths = saved(tmp_path)
    contents = {path: content_of(read_image(path, Reading(channels=channels))) for path in paths.values()}
    same = {paths[name] for name in ("a.png", "b.png", "c.bmp", "d.webp", "e.tif", "f.png", "turned.png")}
    listed = list(paths.values())
    (group,) = same_contents(contents, listed)
    assert {listed[place] for _, place in group} == same
    train, val = listed[::2], listed[1::2]
    (both,) = same_contents(contents, train, val)
    assert {(train, val)[split][place] for split, place in both} == same
    assert same_contents({paths["a.png"]: b"", paths["c.bmp"]: b""}, [paths["a.png"]], [paths["b.png"]]) == []
    assert not same_files(listed)  # by their bytes none is another


def test_what_holds_the_same_pixels_is_told_by_them(tmp_path: Path) -> None:
    paths = saved(tmp_path)
    contents = {path: content_of(read_image(path)) for path in paths.values()}
    faults: list[Fault] = []
    check_repeated([paths["a.png"], paths["c.bmp"], paths["mirrored.png"]], faults.append, contents=contents)
    check_shared([paths["a.png"]], [paths["turned.png"], paths["reshaped.png"]], faults.append, contents=contents)
    assert kinds(faults) == [
        ("pictures that are there more than once", Effect.NOTE),
        ("pictures that are training pictures, too", Effect.DOUBTFUL),
    ]
    assert str(faults[0]) == f"{paths['c.bmp']} holds the same pixels as {paths['a.png']}"
    assert str(faults[1]) == f"{paths['turned.png']} holds the same pixels as {paths['a.png']}"
