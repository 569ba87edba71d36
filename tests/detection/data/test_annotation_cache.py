"""A kept annotation file is what it was, is never an older state's, and is made anew when it is damaged."""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from convmae.detection.data import coco
from convmae.detection.data.annotation_cache import load_arrays
from convmae.detection.data.coco import CocoData, read_coco
from convmae.detection.data.coco_records import ImageRecord, ObjectRecord, run_lengths
from convmae.detection.data.packed_objects import PackedObjects
from convmae.engine.errors import UserError
from convmae.engine.pictures.reading import RGB

Change = Callable[[Callable[[dict], object]], Path]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where small files are kept, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(coco, "_LARGE", 0)
    return tmp_path / "cache" / "convmae"


def content(data: CocoData) -> tuple:
    names = [image.file_name for image in data.images]
    return data.ground_truth(), names, data.remarks, data.describe(), data.class_counts()


def read(split: Path) -> tuple:
    return content(read_coco(split / "instances.json", split / "images"))


def forbid(*args: object) -> None:
    raise AssertionError("the JSON file was read again")


def test_a_second_start_reads_no_json_and_finds_the_same(
    split: Path, change: Change, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(lambda c: c["annotations"][0].update(bbox=[8, 10, 0, 24]))
    first = read(split)
    assert [(remark.kind, remark.count) for remark in first[2]] == [("boxes without area", 1)]
    monkeypatch.setattr(coco, "parse_coco", forbid)
    assert read(split) == first


def test_small_files_are_not_kept(split: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "_LARGE", 5_000_000)
    read(split)
    assert not kept.exists()


def test_a_change_is_seen_even_with_the_size_and_the_time_of_before(split: Path, kept: Path) -> None:
    path = split / "instances.json"
    before, state = read(split), path.stat()
    path.write_text(path.read_text().replace('"disc"', '"cubs"'))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    after = read(split)
    assert after != before
    assert after[0]["categories"][1]["name"] == "cubs"


def test_other_code_reads_the_file_anew(split: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(split)
    monkeypatch.setattr(coco, "_code", lambda: "another")
    monkeypatch.setattr(coco, "parse_coco", forbid)
    with pytest.raises(AssertionError, match="read again"):
        read(split)


def test_pictures_and_masks_are_looked_for_at_each_start(split: Path, change: Change, kept: Path) -> None:
    path = change(lambda c: c["annotations"][0].pop("segmentation"))
    read_coco(path, split / "images", masks=False)
    (cache,) = kept.iterdir()
    with pytest.raises(UserError, match="annotation 1 has no segmentation"):
        read_coco(path, split / "images", masks=True)
    (split / "images" / "0.png").unlink()
    with pytest.raises(UserError, match=r"0\.png is missing"):
        read_coco(path, split / "images", masks=False)
    assert cache.is_file()


def test_a_damaged_cache_is_made_anew(split: Path, kept: Path) -> None:
    first = read(split)
    (cache,) = kept.iterdir()
    whole = cache.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"garbage", whole[:-1], whole[: len(whole) // 2], whole + b"x"]
    for place in rng.integers(len(whole), size=60).tolist():
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
    for bytes_ in damaged:
        cache.write_bytes(bytes_)
        assert read(split) == first
        assert load_arrays(cache, coco._stamp(split / "instances.json", RGB)) is not None


def test_a_cache_that_goes_while_it_is_read_is_made_anew(split: Path, kept: Path) -> None:
    first = read(split)
    (cache,) = kept.iterdir()
    open_file = safetensors.safe_open

    def removed(*args: Any, **options: Any) -> Any:
        cache.unlink()
        return open_file(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors, "safe_open", removed)
        assert read(split) == first
    assert load_arrays(cache, coco._stamp(split / "instances.json", RGB)) is not None


def test_without_a_place_to_keep_it_all_goes_on(split: Path, kept: Path) -> None:
    kept.parent.write_text("a file where the folder would be")
    assert read(split) == read(split)


def test_an_annotation_file_that_is_refused_is_not_kept(split: Path, change: Change, kept: Path) -> None:
    path = change(lambda c: c["annotations"][0].update(image_id=99))
    with pytest.raises(UserError):
        read_coco(path, split / "images")
    assert not kept.exists()


def read_often(split: Path, expected: str) -> None:
    for _ in range(5):
        for cache in (split / "cache" / "convmae").glob("*.safetensors"):
            cache.unlink(missing_ok=True)
        assert json.dumps(read(split)) == expected


def test_processes_that_start_at_once_do_not_disturb_each_other(split: Path, kept: Path) -> None:
    expected = json.dumps(read(split))
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=read_often, args=(split, expected)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.suffix for path in kept.iterdir()] == [".safetensors"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=35, max_size=35), min_size=1, max_size=4))
def test_run_lengths_are_those_of_the_mask(masks: list[list[bool]]) -> None:
    for flat in masks:
        mask = np.asfortranarray(np.array(flat, np.uint8).reshape(5, 7))
        runs = run_lengths(mask_api.encode(mask)["counts"].decode())
        values = np.arange(len(runs)) % 2
        assert np.repeat(values, runs).tolist() == mask.ravel(order="F").tolist()


def test_long_run_lengths_are_read(tmp_path: Path) -> None:
    runs = [0, 100_000, 3, 250_000, 70_000, 1, 129_926, 70]
    encoded = mask_api.frPyObjects({"size": [500, 1100], "counts": runs}, 500, 1100)
    assert run_lengths(encoded["counts"].decode()).tolist() == runs


numbers = st.floats(-1e6, 1e6)
outlines = st.none() | st.lists(st.lists(numbers, min_size=6, max_size=9), min_size=1, max_size=3)
rles = st.just({"size": [4, 5], "counts": "d0"})
objects = st.builds(
    ObjectRecord,
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 100),
    st.tuples(numbers, numbers, numbers, numbers),
    numbers,
    st.booleans(),
    outlines | rles,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(objects, max_size=3), max_size=4))
def test_packed_objects_are_what_was_packed(of_images: list[list[ObjectRecord]]) -> None:
    images = [ImageRecord(7 * number, str(number), 5, 4) for number in range(len(of_images))]
    packed = PackedObjects.pack(images, {image.id: found for image, found in zip(images, of_images, strict=True)})
    assert list(packed.items()) == [(image.id, found) for image, found in zip(images, of_images, strict=True)]
    assert packed.get(-1) is None
    for image, found in zip(images, of_images, strict=True):
        assert packed.learnable(image) == sum(not one.crowd for one in found)
        assert packed.columns["id"][packed.rows([image])].tolist() == [one.id for one in found]
    lacking = [one.id for found in of_images for one in found if one.segmentation is None and not one.crowd]
    assert packed.columns["id"][packed.without_segmentation()].tolist() == lacking
