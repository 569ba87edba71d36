"""Ids, sizes, boxes and segmentations in another form than COCO's: the same numbers are taken, the others named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from tiny_detector import tiny_config

from convmae.detection.checks.data_check import check_data
from convmae.detection.checks.preflight import read_splits
from convmae.detection.data.coco import CocoData, read_classes, read_coco
from convmae.engine.errors import UserError
from convmae.engine.faults import Effect

Change = Callable[[Callable[[dict], Any]], Path]
Edit = Callable[[dict[str, Any]], Any]


def every(part: str, key: str, make: Callable[[Any], Any]) -> Edit:
    """An edit of a key in all entries of a list."""
    return lambda content: [one.update({key: make(one[key])}) for one in content[part]]


def both(*edits: Edit) -> Edit:
    return lambda content: [edit(content) for edit in edits]


def pairs(parts: Any) -> Any:
    """Flat polygons as lists of [x, y]; run lengths as they are."""
    return parts if isinstance(parts, dict) else [np.reshape(part, (-1, 2)).tolist() for part in parts]


def split_read(split: Path) -> CocoData:
    return read_coco(split / "instances.json", split / "images")


def test_whole_numbers_with_a_point_are_the_same_numbers(split: Path, change: Change) -> None:
    before = split_read(split)
    keys = (("images", ("id", "width", "height")), ("categories", ("id",)))
    keys += (("annotations", ("id", "image_id", "category_id", "iscrowd")),)  # type: ignore[assignment]
    change(both(*(every(part, key, float) for part, of_part in keys for key in of_part)))
    after = split_read(split)
    assert after.ground_truth() == before.ground_truth()
    assert (after.images, after.categories) == (before.images, before.categories)
    assert all(type(one.id) is int for one in (*after.images, *after.categories))
    truth = COCO(str(split / "instances.json"))
    for image in after.images:
        assert sorted(one.id for one in after.objects[image.id]) == sorted(truth.getAnnIds(imgIds=[image.id]))
    assert read_classes(split / "instances.json") == before.categories


def test_flags_that_are_true_or_false_or_null_are_taken(split: Path, change: Change) -> None:
    before = split_read(split).ground_truth()
    change(every("annotations", "iscrowd", bool))
    assert split_read(split).ground_truth() == before
    change(every("annotations", "iscrowd", lambda crowd: 1 if crowd else None))
    assert split_read(split).ground_truth() == before


WITHOUT_QUOTES = "expected a whole number: write it without quotes"
REFUSED: dict[str, tuple[Edit, str]] = {
    "image id of a text": (every("images", "id", str), f"image number 0: its id is the text '10'; {WITHOUT_QUOTES}"),
    "class id of a text": (every("categories", "id", str), f"category number 0: its id is the text '7'; {WITHOUT_QUOTES}"),
    "id of a text": (every("annotations", "id", str), f"its id is the text '1'; {WITHOUT_QUOTES}"),
    "image_id of a text": (every("annotations", "image_id", str), f"its image_id is the text '10'; {WITHOUT_QUOTES}"),
    "category_id of a text": (every("annotations", "category_id", str), f"its category_id is the text '7'; {WITHOUT_QUOTES}"),
    "texts throughout": (
        both(every("images", "id", str), every("annotations", "image_id", str)),
        f"image number 0: its id is the text '10'; {WITHOUT_QUOTES}",
    ),
    "file name": (
        every("annotations", "image_id", lambda _: "1.png"),
        "its image_id is the text '1.png'; expected a whole number: that is the name of image 11",
    ),
    "class name": (
        every("annotations", "category_id", lambda _: "disc"),
        "its category_id is the text 'disc'; expected a whole number: that is the name of category 7",
    ),
    "parts": (every("images", "id", lambda number: number + 0.5), "its id is 10.5; expected a whole number."),
    "truth": (every("annotations", "category_id", lambda _: True), "its category_id is true; expected a whole number."),
    "nothing": (every("annotations", "image_id", lambda _: None), "its image_id is null; expected a whole number."),
    "beyond what a float holds": (every("images", "id", lambda n: n + 2.0**60), "its id is 1.15292150"),
    "width of a text": (every("images", "width", str), "image 10 is the text '96' x 64; expected whole, positive sizes: write"),
    "height in part": (every("images", "height", lambda n: n + 0.5), "image 10 is 96 x 64.5; expected whole, positive"),
    "pairs": (every("annotations", "segmentation", lambda s: s if isinstance(s, dict) else pairs(s)[0]), "found [x, y] pairs"),
    "pairs in parts": (every("annotations", "segmentation", pairs), "found [x, y] pairs"),
    "pairs deeper": (every("annotations", "segmentation", lambda s: [pairs(s)]), "found [x, y] pairs"),
    "flat": (every("annotations", "segmentation", lambda s: s if isinstance(s, dict) else s[0]), "found one list of 8 numbers"),
    "a list too many": (every("annotations", "segmentation", lambda s: [s]), "found lists in lists, 3 deep"),
    "odd": (every("annotations", "segmentation", lambda s: s if isinstance(s, dict) else [s[0][:7]]), "a polygon of 7 numbers"),
    "texts in polygons": (
        every("annotations", "segmentation", lambda s: s if isinstance(s, dict) else [list(map(str, s[0]))]),
        "found numbers written as texts: write them without quotes",
    ),
    "objects in polygons": (every("annotations", "segmentation", lambda _: [{"x": 1, "y": 2}]), "found objects with x, y in"),
    "polygons in a text": (every("annotations", "segmentation", str), "found a text: write it without quotes"),
    "x and y apart": (
        every("annotations", "segmentation", lambda _: {"all_points_x": [1], "all_points_y": [1]}),
        "found an object with all_points_x, all_points_y",
    ),
    "run lengths in a list": (
        every("annotations", "segmentation", lambda s: [s] if isinstance(s, dict) else s),
        "found objects with size, counts in place of numbers",
    ),
    "run lengths of a picture turned": (
        every("annotations", "segmentation", lambda s: {**s, "size": s["size"][::-1]} if isinstance(s, dict) else s),
        "Width and height of the mask are swapped",
    ),
    "printed bytes": (
        every("annotations", "segmentation", lambda s: {**s, "counts": "b'PP3'"} if isinstance(s, dict) else s),
        "They are bytes as Python prints them: write counts.decode()",
    ),
    "box of texts": (every("annotations", "bbox", lambda box: list(map(str, box))), "found numbers written as texts"),
    "box in a text": (every("annotations", "bbox", str), "found a text: write it without quotes"),
    "box of names": (
        every("annotations", "bbox", lambda box: dict(zip("xywh", box, strict=True))),
        "in pixels, found an object with x, y, w, h",
    ),
    "box of two corners": (every("annotations", "bbox", lambda box: [box[:2], box[2:]]), "in pixels, found [x, y] pairs"),
    "box of four corners": (every("annotations", "bbox", lambda box: box * 2), "in pixels, found one list of 8 numbers"),
    "box of nothing": (every("annotations", "bbox", lambda _: [None] * 4), "in pixels, found null in place of numbers"),
    "flag of a text": (every("annotations", "iscrowd", str), "its iscrowd is the text '0'; expected 0 or 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_another_form_is_named_in_training_and_by_the_check(split: Path, change: Change, case: str) -> None:
    edit, said = REFUSED[case]
    change(edit)
    config = tiny_config(split)
    with pytest.raises(UserError) as error:
        read_splits(config.data, masks=True)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value) in [str(fault) for fault in check_data(config)[0].faults]


def test_a_file_all_of_whose_objects_are_refused_is_none_to_predict(split: Path, change: Change) -> None:
    change(every("annotations", "segmentation", lambda _: [[[8, 8], [24, 8], [24, 32]]]))
    kinds = {fault.kind for fault in check_data(tiny_config(split))[0].faults}
    assert "polygons that are no lists of points" in kinds
    assert "splits without objects" not in kinds


def test_objects_of_a_picture_whose_id_is_a_text_are_passed_over(split: Path, change: Change) -> None:
    change(lambda content: content["images"][1].update(id="11"))
    faults = check_data(tiny_config(split))[0].faults
    assert [fault.kind for fault in faults if fault.effect is not Effect.DOUBTFUL] == ["odd ids"]


LEFT_OUT: dict[str, tuple[Edit, list[str]]] = {
    "boxes as polygons": (
        every("annotations", "segmentation", lambda _: [[8, 10, 32, 24]]),
        ["Left out: 7 polygons of less than three points, the first: "],
    ),
    "several kinds": (
        lambda content: [
            one.update({"bbox": [0, 0, 0, 4]} if number % 2 else {"bbox": [200, 0, 4, 4]})
            for number, one in enumerate(content["annotations"])
        ],
        ["4 boxes outside their picture", "3 boxes without area"],
    ),
    "crowds": (every("annotations", "iscrowd", lambda _: 1), ["7 have iscrowd=1, which marks a region of many objects"]),
    "none": (lambda content: content.update(annotations=[]), ["Pictures without annotations can be predicted: tools/pre"]),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_split_without_objects_says_what_is_there_in_their_place(split: Path, change: Change, case: str) -> None:
    edit, told = LEFT_OUT[case]
    path = change(edit)
    assert len(json.loads(path.read_text())["annotations"]) in (0, 7)
    with pytest.raises(UserError, match="no picture holds an object") as error:
        read_splits(tiny_config(split).data, masks=True)
    for words in told:
        assert words in str(error.value)
    assert str(error.value) in [str(fault) for fault in check_data(tiny_config(split))[0].faults]


def test_one_point_or_two_that_stand_alone_are_left_out_as_before(split: Path, change: Change) -> None:
    change(lambda content: content["annotations"][0].update(segmentation=[[8, 10]]))
    assert split_read(split).dropped == {"polygons of less than three points": 1}


def test_empty_polygons_throughout_are_boxes_alone_and_among_masks_are_left_out(split: Path, change: Change) -> None:
    def empty(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry["segmentation"] = [[]]

    change(empty)
    data = read_coco(split / "instances.json", split / "images", masks=False)
    assert not data.dropped
    assert sum(data.class_counts()) == 6
    with pytest.raises(UserError, match=r"has no segmentation; for data with boxes alone.*model\.masks=false"):
        read_coco(split / "instances.json", split / "images")


def test_where_entries_stop_training_the_absence_of_objects_is_not_told_as_well(split: Path, change: Change) -> None:
    change(lambda content: [entry.update(iscrowd="0") for entry in content["annotations"]])
    stops = {fault.kind for fault in check_data(tiny_config(split))[0].faults if fault.effect is Effect.STOPS}
    assert stops == {"odd crowd flags"}


def test_runs_with_a_point_are_the_same_runs(split: Path, change: Change) -> None:
    before = split_read(split).objects[11]

    def with_points(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            if isinstance(entry["segmentation"], dict) and isinstance(entry["segmentation"]["counts"], list):
                entry["segmentation"]["counts"] = [float(run) for run in entry["segmentation"]["counts"]]

    path = change(with_points)
    assert ".0" in path.read_text()
    assert split_read(split).objects[11] == before


def test_a_class_named_null_has_no_name(split: Path, change: Change) -> None:
    change(lambda content: content["categories"][0].update(name=None))
    assert "classes without a name" in {fault.kind for fault in check_data(tiny_config(split))[0].faults}
