"""What a COCO file says twice is compared: mistakes it shares throughout stop, single ones are remarked, right data pass."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_coco import SIZES, Content, bare, coco, edited, ellipse, faults_of, kinds, runs
from pycocotools import mask as mask_api

from convmae.detection.checks.contradictions import check_contradictions
from convmae.detection.checks.splits import check_split
from convmae.detection.data.coco import parse_coco
from convmae.engine.faults import Effect, Fault


def box_as(form: Callable[..., list[float]]) -> Callable[[Content, float, float], None]:
    def edit(annotation: Content, width: float, height: float) -> None:
        annotation["bbox"] = form(*annotation["bbox"], width, height)

    return edit


FORMS = {
    "corners [x1, y1, x2, y2]": lambda x, y, w, h, W, H: [x, y, x + w, y + h],
    "corners [y1, x1, y2, x2]": lambda x, y, w, h, W, H: [y, x, y + h, x + w],
    "sides [x1, x2, y1, y2]": lambda x, y, w, h, W, H: [x, x + w, y, y + h],
    "centre, width and height": lambda x, y, w, h, W, H: [x + w / 2, y + h / 2, w, h],
    "[top, left, height, width]": lambda x, y, w, h, W, H: [y, x, h, w],
    "[left, top, height, width]": lambda x, y, w, h, W, H: [x, y, h, w],
    "[left, bottom, width, height]": lambda x, y, w, h, W, H: [x, y + h, w, h],
    "counted from the picture's lower edge": lambda x, y, w, h, W, H: [x, H - y - h, w, h],
    "left, top, width and height as parts": lambda x, y, w, h, W, H: [x / W, y / H, w / W, h / H],
    "corners as parts": lambda x, y, w, h, W, H: [x / W, y / H, (x + w) / W, (y + h) / H],
    "as YOLO has them": lambda x, y, w, h, W, H: [(x + w / 2) / W, (y + h / 2) / H, w / W, h / H],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("drawn", [False, True], ids=["polygons", "run lengths"])
def test_boxes_that_their_masks_prove_to_be_of_another_form_stop_and_are_named(
    tmp_path: Path, form: str, drawn: bool
) -> None:
    content = coco()
    if drawn:
        content = edited(content, lambda one, w, h: one.update(segmentation=runs(one["segmentation"], int(w), int(h))))
    assert not faults_of(tmp_path, content)
    faults = faults_of(tmp_path, edited(content, box_as(FORMS[form])))
    (stop,) = [fault for fault in faults if fault.effect is Effect.STOPS]
    assert form in str(stop)
    assert "expected [left, top, width, height] in pixels" in str(stop)
    assert str(tmp_path / "instances.json") in str(stop)


@pytest.mark.parametrize("form", ["corners [x1, y1, x2, y2]", "left, top, width and height as parts"])
def test_half_a_file_of_another_form_stops_and_one_object_does_not(tmp_path: Path, form: str) -> None:
    edit = box_as(FORMS[form])
    assert kinds(faults_of(tmp_path, edited(coco(), edit, every=2)), Effect.STOPS) == [
        "files with boxes of another form"
    ]
    faults = faults_of(tmp_path, edited(coco(each=10), edit, every=40))
    assert not kinds(faults, Effect.STOPS)
    (one,) = [fault for fault in faults if fault.effect is Effect.DOUBTFUL]
    assert "annotation 1:" in str(one)
    assert one.image.id == 1


RESIZED = {
    "of pictures resized to": ((640, 480), lambda W, H: (640 / W, 480 / H)),
    "of pictures resized to parts of": ((100, 100), lambda W, H: (100 / W, 100 / H)),
    "whose long side was resized to": ((256, 256), lambda W, H: (256 / max(W, H), 256 / max(W, H))),
    "times as large as the masks": ((0.5, 0.5), lambda W, H: (0.5, 0.5)),
}


@pytest.mark.parametrize("case", RESIZED)
@pytest.mark.parametrize("drawn", [False, True], ids=["polygons", "run lengths"])
def test_boxes_of_pictures_that_were_resized_stop_and_the_size_is_told(tmp_path: Path, case: str, drawn: bool) -> None:
    expected, scale = RESIZED[case]

    def edit(annotation: Content, width: float, height: float) -> None:
        x, y = scale(width, height)
        if drawn:
            annotation["segmentation"] = runs(annotation["segmentation"], int(width), int(height))
        annotation["bbox"] = (np.array(annotation["bbox"]) * (x, y, x, y)).tolist()

    faults = faults_of(tmp_path, edited(coco(each=40), edit))
    (stop,) = [fault for fault in faults if fault.effect is Effect.STOPS]
    assert case.removesuffix(" parts of") in str(stop)
    told = re.search(r"([\d.]+) x ([\d.]+) (?:pixels|times)", str(stop))
    assert told
    assert [float(number) for number in told.groups()] == pytest.approx(expected, rel=0.02)


BARE = {
    "corners [x1, y1, x2, y2]": "corners [x1, y1, x2, y2]",
    "corners [y1, x1, y2, x2]": "corners [y1, x1, y2, x2]",
    "centre, width and height": "centre, width and height",
    "left, top, width and height as parts": "parts of the picture's size",
    "corners as parts": "parts of the picture's size",
    "as YOLO has them": "parts of the picture's size",
}


@pytest.mark.parametrize("form", BARE)
def test_boxes_alone_stop_where_no_picture_could_hold_them(tmp_path: Path, form: str) -> None:
    content = coco(each=30)
    assert not faults_of(tmp_path, bare(content))
    faults = faults_of(tmp_path, bare(edited(content, box_as(FORMS[form]))))
    (stop,) = [fault for fault in faults if fault.effect is Effect.STOPS]
    assert BARE[form] in str(stop)


def scaled(annotation: Content, x: float, y: float) -> None:
    annotation["segmentation"] = [
        [value * (y if place % 2 else x) for place, value in enumerate(part)] for part in annotation["segmentation"]
    ]


def test_masks_as_parts_of_the_picture_stop_with_right_boxes_and_with_boxes_that_are_parts_too(tmp_path: Path) -> None:
    masks = edited(coco(), lambda one, w, h: scaled(one, 1 / w, 1 / h))
    (stop,) = [fault for fault in faults_of(tmp_path, masks) if fault.effect is Effect.STOPS]
    assert "the masks are parts of the picture's size" in str(stop)
    both = edited(masks, box_as(FORMS["left, top, width and height as parts"]))
    (stop,) = [fault for fault in faults_of(tmp_path, both) if fault.effect is Effect.STOPS]
    assert "24 of 24 boxes are right only if read as parts" in str(stop)


def test_masks_of_other_objects_than_their_boxes_stop(tmp_path: Path) -> None:
    content = coco()
    outlines = [annotation["segmentation"] for annotation in content["annotations"]]
    for annotation, outline in zip(content["annotations"], outlines[1:] + outlines[:1], strict=True):
        annotation["segmentation"] = outline
    (stop,) = [fault for fault in faults_of(tmp_path, content) if fault.effect is Effect.STOPS]
    assert "masks lie mostly outside their boxes" in str(stop)


def flattened(annotation: Content, width: float, height: float, order: Any, inside: int) -> None:
    """Makes of a mask run lengths as code does that goes along the rows, or takes the first run for the object."""
    mask = mask_api.decode(runs(annotation["segmentation"], int(width), int(height)))
    flat = (mask if inside else 1 - mask).ravel(order=order).astype(int)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(flat, prepend=0)), [flat.size]])
    annotation["segmentation"] = {"size": list(mask.shape), "counts": np.diff(edges).tolist()}


@pytest.mark.parametrize(("order", "inside"), [("C", 1), ("F", 0)], ids=["along the rows", "inside out"])
def test_run_lengths_in_another_order_stop(tmp_path: Path, order: str, inside: int) -> None:
    content = edited(coco(), lambda one, w, h: flattened(one, w, h, order, inside))
    (stop,) = [fault for fault in faults_of(tmp_path, content) if fault.effect is Effect.STOPS]
    assert "masks lie mostly outside their boxes" in str(stop)
    assert "The runs of an RLE go down the columns" in str(stop)
    right = edited(coco(), lambda one, w, h: flattened(one, w, h, "F", 1))
    assert not kinds(faults_of(tmp_path, right), Effect.STOPS) + kinds(faults_of(tmp_path, right), Effect.DOUBTFUL)


@pytest.mark.parametrize("masks", [True, False])
def test_masks_that_are_all_the_rectangles_of_their_boxes_are_doubted_where_masks_are_learnt(
    tmp_path: Path, masks: bool
) -> None:
    def rectangle(one: Content, width: float, height: float) -> None:
        x, y, w, h = one["bbox"]
        one.update(segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]], area=w * h)

    path = tmp_path / "instances.json"
    for edit, count in ((rectangle, int(masks)), (lambda *_: None, 0)):
        path.write_text(json.dumps(edited(coco(each=10), edit)))
        found: list[Fault] = []
        check_split(parse_coco(path, tmp_path, found.append), found.append, masks)
        assert kinds(found, Effect.DOUBTFUL) == ["files with rectangles for masks"] * count


def test_all_objects_again_under_another_class_are_doubted(tmp_path: Path) -> None:
    content = coco()
    again = [{**one, "id": 100 + one["id"], "category_id": 3 - one["category_id"]} for one in content["annotations"]]
    content["annotations"] += again
    (fault,) = faults_of(tmp_path, content)
    assert (fault.kind, fault.effect) == ("files with objects under two classes", Effect.DOUBTFUL)
    assert "24 of 48 objects" in str(fault)


def test_a_box_or_mask_at_fault_is_remarked_with_its_picture_and_both_spans(tmp_path: Path) -> None:
    content = coco(each=10)
    wide, apart = content["annotations"][3], content["annotations"][17]
    wide.update(bbox=[10, 10, 40, 40], segmentation=[ellipse(10, 10, 20, 20)], area=314)
    apart.update(bbox=[5, 5, 20, 20], segmentation=[ellipse(40, 60, 20, 20)], area=314)
    faults = faults_of(tmp_path, content)
    assert [(fault.kind, fault.effect, fault.image.id) for fault in faults] == [
        ("boxes that disagree with their masks", Effect.DOUBTFUL, 1),
        ("masks outside their boxes", Effect.DOUBTFUL, 2),
    ]
    assert "annotation 4: its bbox is [10, 10, 40, 40], its mask spans [10, 10, 20, 20]" in str(faults[0])


def many_classes(content: Content) -> None:
    content["categories"] = [{"id": number, "name": f"class {number}"} for number in range(1200)]
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = number
    content["categories"] = content["categories"][: len(content["annotations"])]


def pixels(content: Content) -> None:
    for number, annotation in enumerate(content["annotations"]):
        x, y = number % 8, number // 8
        annotation.update(bbox=[x, y, 1, 1], area=1, segmentation=[[x, y, x + 1, y, x + 1, y + 1, x, y + 1]])


def ring(content: Content) -> None:
    """A hole as a polygon of its own, which COCO's masks fill, and an object in two parts."""
    content["annotations"][0].update(
        bbox=[10, 10, 30, 30], segmentation=[ellipse(10, 10, 30, 30), ellipse(20, 20, 10, 10)], area=707 - 79
    )
    content["annotations"][1].update(
        bbox=[10, 50, 60, 20], segmentation=[ellipse(10, 50, 10, 20), ellipse(50, 55, 20, 10)], area=157 + 157
    )


def borders(content: Content) -> None:
    for annotation in content["annotations"]:
        width, height = SIZES[annotation["image_id"] - 1]
        annotation.update(bbox=[0, 0, width, height], area=width * height, segmentation=[ellipse(0, 0, width, height)])
    # The same box in one picture again would be the same object again.
    content["annotations"] = content["annotations"][::6]


def amodal(content: Content) -> None:
    """Boxes that go on beyond their picture, masks that end there."""
    for annotation in content["annotations"][::6]:
        width, height = SIZES[annotation["image_id"] - 1]
        x, y = width - 20, height - 20
        mask = [[x, y, width, y, width, height, x, height]]
        annotation.update(bbox=[x, y, 45, 45], segmentation=mask, area=400)


def nudged(content: Content) -> None:
    rng = np.random.default_rng(1)
    for annotation in content["annotations"]:
        annotation["bbox"] = (np.array(annotation["bbox"]) + rng.uniform(-1, 1, 4) / 2).tolist()


RIGHT: dict[str, Callable[[Content], Any]] = {
    "as it is": lambda content: None,
    "boxes a pixel off": nudged,
    "whole pixels, one more": lambda c: [a.update(bbox=[round(v) for v in a["bbox"]]) for a in c["annotations"]],
    "areas of boxes": lambda c: [a.update(area=a["bbox"][2] * a["bbox"][3]) for a in c["annotations"]],
    "no areas": lambda c: [a.pop("area") for a in c["annotations"]],
    "one class": lambda c: (c["categories"].pop(), [a.update(category_id=1) for a in c["annotations"]]),
    "a class for each object": many_classes,
    "one object": lambda c: c.update(annotations=c["annotations"][:1]),
    "objects of one pixel": pixels,
    "holes and parts": ring,
    "whole pictures": borders,
    "boxes that go on beyond their picture": amodal,
    "one crowd of many objects": lambda c: c["annotations"][0].update(iscrowd=1, bbox=[0, 0, 100, 90]),
    "a box under two classes": lambda c: c["annotations"].append({**c["annotations"][0], "id": 99, "category_id": 2}),
}


@pytest.mark.parametrize("case", RIGHT)
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes alone"])
def test_odd_but_right_data_are_neither_refused_nor_doubted(tmp_path: Path, case: str, masks: bool) -> None:
    content = coco()
    RIGHT[case](content)
    faults = faults_of(tmp_path, content if masks else bare(content))
    assert not kinds(faults, Effect.STOPS)
    assert not kinds(faults, Effect.DOUBTFUL)


def test_real_data_are_not_doubted(data_dir: Path) -> None:
    for name in ("coco_mini", "nuclei_mini"):
        for split in ("train2017", "val2017"):
            file = data_dir / name / "annotations" / f"instances_{split}.json"
            found: list[Fault] = []
            check_contradictions(parse_coco(file, data_dir / name / split, found.append), found.append)
            assert not found
