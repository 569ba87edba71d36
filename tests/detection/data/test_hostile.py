"""COCO files that are bombs or nothing: named with file and id, never a traceback, a memory fault or a long wait."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_cases import CASES, Case
from fuzzing import check_script
from hypothesis import given, settings
from pycocotools import mask as mask_api
from tiny_detector import tiny_config

from convmae.detection.checks import perfect_detector
from convmae.detection.checks.data_check import check_data
from convmae.detection.checks.splits import check_split
from convmae.detection.data import annotation_entries
from convmae.detection.data.coco import CocoData, parse_coco, read_coco
from convmae.detection.data.coco_records import ObjectRecord, to_rle
from convmae.detection.data.segmentations import WINDING
from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, refuse
from convmae.engine.pictures.reading import Reading

Change = Callable[[Callable[[dict], Any]], Path]
NUMBERS: list[Any] = [
    -1, 0, True, None, "7", "nan", 0.5, 1e30, 1e308, -1e308, float("nan"), float("inf"), 2**32, 2**63, 10**30, 10**400, [], [1],
    {}, [[[[1]]]],
]  # fmt: skip


def faults_of(split: Path) -> list[Fault]:
    found: list[Fault] = []
    check_split(parse_coco(split / "instances.json", split / "images", found.append), found.append)
    return found


def refused(split: Path) -> str:
    with pytest.raises(UserError) as error:
        read_coco(split / "instances.json", split / "images")
    return str(error.value)


def first(part: str, **values: Any) -> Callable[[dict], Any]:
    return lambda content: content[part][0].update(values)


def test_a_picture_said_to_be_huge_is_refused_before_anything_is_drawn(split: Path, change: Change) -> None:
    far = [[0, 0, 1e9, 0, 1e9, 1e9, 0, 1e9]]
    change(
        lambda content: [
            first("images", width=10**9, height=10**9)(content),
            first("annotations", segmentation=far)(content),
        ]
    )
    said = refused(split)
    assert f"{split / 'instances.json'}: image 10 is 1000000000 x 1000000000 pixels" in said
    assert "data.max_pixels is 180 million" in said
    assert said in [str(fault) for split_ in check_data(tiny_config(split)) for fault in split_.faults]
    change(first("images", width=96, height=64))
    with pytest.raises(UserError, match=r"image 10 is 96 x 64 pixels, 6,144; data.max_pixels is 6,000"):
        read_coco(split / "instances.json", split / "images", reading=Reading(max_pixels=6000))


@pytest.mark.parametrize(
    "field", ["width", "height", "images id", "categories id", "id", "image_id", "category_id", "area"]
)
def test_no_number_ends_in_a_traceback(split: Path, change: Change, field: str) -> None:
    part = (
        "images"
        if field in ("width", "height", "images id")
        else "categories"
        if "categories" in field
        else "annotations"
    )
    for value in NUMBERS:
        path = change(first(part, **{field.split()[-1]: value}))
        for fault in faults_of(split):
            assert str(path) in str(fault)


@pytest.mark.parametrize("place", range(4))
def test_no_box_ends_in_a_traceback(split: Path, change: Change, place: int) -> None:
    box = [8, 10, 32, 24]
    for value in NUMBERS:
        change(first("annotations", bbox=[*box[:place], value, *box[place + 1 :]]))
        assert all("annotation 1" in str(fault) for fault in faults_of(split))


@pytest.mark.parametrize("value", NUMBERS)
def test_no_segmentation_ends_in_a_traceback(split: Path, change: Change, value: Any) -> None:
    runs = {"size": [64, 96], "counts": [6000, 144]}
    for found in (
        value, [value], [[value] * 6], [[8, 10, 40, value, 40, 34]], {**runs, "size": value}, {**runs, "size": [64, value]},
        {**runs, "counts": value}, {**runs, "counts": [6144, value]}, {**runs, "counts": [value, 6144]},
    ):  # fmt: skip
        change(first("annotations", segmentation=found))
        assert all("annotation" in str(fault) for fault in faults_of(split))


def test_runs_are_added_up_exactly_before_pycocotools_sees_them(split: Path, change: Change) -> None:
    for counts in ([2**32, 6144], [2**64 + 6144], [6144 - 2**32, 2**32]):
        change(first("annotations", segmentation={"size": [64, 96], "counts": counts}))
        assert f"{split / 'instances.json'}: annotation 1: the" in refused(split)
    beyond = "o" * 6 + "1"  # a run of more than 2^32 pixels
    change(first("annotations", segmentation={"size": [64, 96], "counts": beyond}))
    assert "annotation 1: the counts of its mask are broken: a run is" in refused(split)


def test_an_outline_without_end_is_left_out(split: Path, change: Change) -> None:
    zigzag = [[0, 0, 96, 64] * (WINDING // 2 + 2)]
    change(first("annotations", segmentation=zigzag))
    (fault,) = [one for one in faults_of(split) if one.kind == "polygons without end"]
    assert fault.effect is Effect.LEFT_OUT
    assert (
        "annotation 1: with its polygons the outlines in 0.png are 9.64e+04 pixels long; expected 96000 at most"
        in str(fault)
    )
    change(first("annotations", segmentation=[zigzag[0][:1000]]))
    assert "polygons without end" not in {one.kind for one in faults_of(split)}


@pytest.mark.parametrize("text", ["1", "null", "true", '"a"', "[]", "[[[]]]", "1e999", "NaN", "{}", "[" * 10**5])
def test_a_file_that_is_no_object_is_refused(split: Path, text: str) -> None:
    (split / "instances.json").write_text(text)
    assert str(split / "instances.json") in refused(split)


@pytest.mark.parametrize("depth", [900, 10_000, 200_000])
@pytest.mark.parametrize("key", ["bbox", "segmentation", "id", "area", "iscrowd", "size", "name", "file_name", "width"])
def test_lists_in_lists_without_end_are_refused(split: Path, change: Change, key: str, depth: int) -> None:
    def edit(content: dict) -> None:
        if key == "size":
            content["annotations"][0]["segmentation"] = {"size": "@", "counts": "0"}
        else:
            part = "images" if key in ("file_name", "width") else "categories" if key == "name" else "annotations"
            content[part][0][key] = "@"

    path = change(edit)
    path.write_text(path.read_text().replace('"@"', "[" * depth + "]" * depth))
    if key == "area" and depth < 1000:  # one that is no number is taken from the mask
        faults_of(split)
    else:
        assert str(path) in refused(split)


def test_a_key_that_stands_twice_is_named(split: Path) -> None:
    path = split / "instances.json"
    whole = path.read_text()
    path.write_text(whole.replace('"bbox":', '"bbox": [1, 2, 3, 4], "bbox":', 1))
    assert refused(split) == (
        f"{path}: the key 'bbox' of the object with id 1 stands twice with different values; expected each key once."
    )
    path.write_text('{"annotations": [], ' + whole[1:])
    assert "the key 'annotations' stands twice" in refused(split)
    path.write_text(whole.replace('"iscrowd": 0', '"iscrowd": 0, "iscrowd": 0'))
    assert len(read_coco(path, split / "images").images) == 4


def test_a_key_that_stands_twice_where_nobody_reads_it_is_passed_over(split: Path) -> None:
    path = split / "instances.json"
    whole = path.read_text()
    for more in ('"attributes": {"id": 1, "id": 2, "x": 1, "x": 2}, ', '"note": 1, "note": 2, '):
        path.write_text(whole.replace('"bbox":', more + '"bbox":', 1))
        assert len(read_coco(path, split / "images").images) == 4
    path.write_text('{"info": {"name": 1, "name": 2}, "info": 3, ' + whole[1:])
    assert len(read_coco(path, split / "images").images) == 4
    runs = '"segmentation": {"size": [64, 96], "counts": [6000, 144], "counts": [144, 6000]}, "bbox":'
    path.write_text(whole.replace('"bbox":', runs, 1))
    assert "the key 'segmentation' of the object with id 1 stands twice" in refused(split)
    rows = json.loads(whole)
    rows["annotations"][0]["segmentation"] = "@"
    path.write_text(json.dumps(rows).replace('"@"', '{"size": [64, 96], "counts": "0", "counts": "1"}'))
    assert "the key 'counts' stands twice" in refused(split)


def test_what_is_no_name_of_a_file_is_refused(split: Path) -> None:
    config = tiny_config(split)
    config.data.train_annotations = "a\0b.json"
    with pytest.raises(UserError, match=r"a\\x00b.json' is no name of a file \(embedded null byte\)"):
        read_coco(split / "a\0b.json", split / "images")
    (fault,) = check_data(config)[0].faults
    assert "is no name of a file" in str(fault)


def test_pixels_beyond_the_32_bits_of_masks_are_refused_where_data_has_masks(split: Path, change: Change) -> None:
    vast = Reading(max_pixels=10**12)
    path = change(
        lambda content: [
            first("images", width=2**16, height=2**16)(content),
            first("annotations", segmentation={"size": [2**16] * 2, "counts": [2**32]})(content),
        ]
    )
    with pytest.raises(
        UserError, match=r"annotation 1: its picture 0.png has 4294967296 pixels; expected 4294967295 at"
    ):
        parse_coco(path, split / "images", refuse, vast)


def test_the_classes_of_a_file_are_told_once_however_many_objects_are_of_others(
    split: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(annotation_entries, "_some", lambda categories: calls.append(1) or "1, 2")
    change(lambda content: [one.update(category_id=99) for one in content["annotations"]])
    assert sum("has category 99; the file's 'categories' list 1, 2" in str(fault) for fault in faults_of(split)) > 1
    assert calls == [1]


@pytest.mark.parametrize("together", ["objects", "parts"])
def test_many_outlines_of_a_picture_have_one_limit(split: Path, change: Change, together: str) -> None:
    """Each of them would be drawn alone."""
    winding = [0, 0, 96, 64] * (WINDING // 4)

    def edit(content: dict) -> None:
        model = {**content["annotations"][0], "iscrowd": 0, "segmentation": [winding]}
        if together == "parts":
            content["annotations"][0]["segmentation"] = [winding] * 3
        else:
            content["annotations"] += [{**model, "id": 1000 + number} for number in range(3)]

    change(edit)
    faults = [one for one in faults_of(split) if one.kind == "polygons without end"]
    assert faults
    assert len(faults) < 3
    assert all(one.effect is Effect.LEFT_OUT and "expected 96000 at most" in str(one) for one in faults)


@pytest.mark.parametrize(
    "name", ["../0.png", "/etc/passwd", "deep/../../0.png", "C:\\data\\0.png", "c:/0.png", "..", "//host/a"]
)
def test_a_name_that_leads_out_of_the_picture_folder_is_refused(split: Path, change: Change, name: str) -> None:
    (split / "0.png").write_bytes((split / "images" / "0.png").read_bytes())
    change(first("images", file_name=name))
    assert (
        f"{split / 'instances.json'}: image 10: its file_name {name!r} leads out of the picture folder"
        "; write the names relative to that folder" in refused(split)
    )


def test_links_in_the_picture_folder_are_followed_but_not_up_from_where_they_lead(split: Path, change: Change) -> None:
    (split / "elsewhere" / "below").mkdir(parents=True)
    (split / "images" / "0.png").rename(split / "elsewhere" / "below" / "0.png")
    (split / "elsewhere" / "0.png").touch()
    (split / "images" / "link").symlink_to(split / "elsewhere" / "below")
    path = change(first("images", file_name="link/0.png"))
    assert len(read_coco(path, split / "images").images) == 4
    change(first("images", file_name="link/../0.png"))
    assert f"{split / 'images' / '0.png'} is missing" in refused(split)


def test_a_pipe_is_not_waited_for(split: Path) -> None:
    path = split / "instances.json"
    path.unlink()
    os.mkfifo(path)
    assert refused(split) == f"{path} is a pipe; expected a file. Give another path, or put a file in its place."


def own_masks(data: CocoData) -> dict[int, list[ObjectRecord]]:
    return {
        image.id: [
            one
            if one.segmentation is None
            else replace(one, segmentation=to_rle(one.segmentation, image.height, image.width))
            for one in data.objects[image.id]
        ]
        for image in data.images
    }


@settings(max_examples=25, deadline=None)
@given(CASES)
def test_stand_ins_for_masks_score_as_the_masks_do(case: Case) -> None:
    data, _ = replace(case, classes=1 + case.classes % 2, objects=120 * (case.seed % 3 == 0) + case.objects).make()
    scores = perfect_detector.perfect_scores(data, masks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perfect_detector, "stand_ins", own_masks)
        assert scores == pytest.approx(perfect_detector.perfect_scores(data, masks=True))


def test_many_large_masks_are_not_held_against_one_another(split: Path) -> None:
    """Of 3,000 objects with masks of 2000 x 2000 pixels that took 9 s, and takes 1."""
    data = read_coco(split / "instances.json", split / "images")
    masks = [one.segmentation for objects in perfect_detector.stand_ins(data).values() for one in objects]
    assert len(masks) == 7
    assert max(len(mask["counts"]) for mask in masks if isinstance(mask, dict)) <= 4


def test_polygons_of_many_parts_are_merged_as_pycocotools_does() -> None:
    corners = np.random.default_rng(0).integers(0, 90, (70, 2)).tolist()
    for count in (1, 7, 8, 9, 64, 65, 70):
        parts = [[float(x), float(y), x + 9.0, float(y), x + 9.0, y + 7.0] for x, y in corners[:count]]
        assert to_rle(parts, 100, 100) == mask_api.merge(mask_api.frPyObjects(parts, 100, 100))


def test_files_changed_at_random_are_read_or_refused() -> None:
    """More of them by the script itself: each is checked, and trained on where that is not refused."""
    check_script(Path(__file__).with_name("fuzz_coco.py"), 40, 0, 2000)
