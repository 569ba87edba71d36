"""Objects that count for less than it seems: areas, crowds, repeats, masks without a pixel, what is under a pixel."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_coco import SIZES, Content, bare, coco, edited, ellipse, faults_of, kinds, runs
from pycocotools import mask as mask_api

from convmae.detection.checks.outlines import outlines
from convmae.detection.checks.splits import check_samples
from convmae.detection.config import DetectionDataOptions
from convmae.detection.data.coco import parse_coco
from convmae.detection.data.packed_objects import PackedObjects
from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault
from convmae.engine.pictures.reading import Reading


def test_areas_that_are_not_those_of_masks_are_doubted_and_zero_is_taken_from_the_mask(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][2]["area"] *= 9
    content["annotations"][5]["area"] /= 9
    content["annotations"][7]["area"] = 0
    faults = faults_of(tmp_path, content)
    assert [(fault.kind, fault.effect) for fault in faults] == [
        ("areas that are not above 0", Effect.NOTE),
        ("areas that disagree with their masks", Effect.DOUBTFUL),
        ("areas that disagree with their masks", Effect.DOUBTFUL),
    ]
    assert "annotation 3" in str(faults[1])
    data = parse_coco(tmp_path / "instances.json", tmp_path, lambda fault: None)
    (zero,) = [one for objects in data.objects.values() for one in objects if one.id == 8]
    assert zero.area == mask_api.area(runs(content["annotations"][7]["segmentation"], *SIZES[1]))
    content = edited(coco(), lambda one, w, h: one.update(area=one["area"] / w / h))
    (fault,) = faults_of(tmp_path, content)
    assert fault.effect is Effect.DOUBTFUL
    assert "24 of 24 objects have an area that disagrees" in str(fault)


def test_many_crowds_are_doubted_and_a_file_of_crowds_says_what_they_are(tmp_path: Path) -> None:
    def crowd(annotation: Content, *size: float) -> None:
        annotation["iscrowd"] = 1

    (fault,) = faults_of(tmp_path, edited(coco(), crowd, every=4))
    assert (fault.kind, fault.effect) == ("files with many crowds", Effect.DOUBTFUL)
    assert "6 of 24 objects (25 %) have iscrowd=1" in str(fault)
    (fault,) = faults_of(tmp_path, edited(coco(), crowd))
    assert fault.effect is Effect.STOPS
    assert "24 have iscrowd=1" in str(fault)
    assert "set it to 0" in str(fault)


def test_a_file_without_objects_says_what_was_left_out(tmp_path: Path) -> None:
    content = edited(coco(), lambda one, w, h: one.update(segmentation=[one["bbox"]]))
    stop = next(str(fault) for fault in faults_of(tmp_path, content) if fault.effect is Effect.STOPS)
    assert "no picture holds an object" in stop
    assert "24 polygons of less than three points" in stop
    assert "annotation 1" in stop


def test_objects_and_pictures_that_are_listed_twice_are_doubted(tmp_path: Path) -> None:
    content = coco()
    first = content["annotations"][0]
    content["annotations"] += [
        {**first, "id": 90},
        {**first, "id": 91, "segmentation": [ellipse(*first["bbox"], points=16)]},
    ]
    content["images"][2]["file_name"] = "./1.png"
    faults = faults_of(tmp_path, content)
    assert kinds(faults, Effect.DOUBTFUL) == ["objects that are listed twice", "pictures that are listed twice"]
    assert "annotation 90: it is annotation 1 again" in str(faults[0])
    assert "images 1 and 3 are the same file" in str(faults[1])


@pytest.mark.parametrize(
    "mask",
    [
        [[5.1, 5, 5.2, 5, 5.2, 30, 5.1, 30]],
        [[-30, 5, -5, 5, -5, 30, -30, 30]],
        {"size": [96, 128], "counts": [96 * 128]},
    ],
    ids=["thin", "outside", "runs"],
)
def test_masks_that_hold_no_pixel_are_doubted(tmp_path: Path, mask: Any) -> None:
    drawn = mask_api.frPyObjects(mask, 96, 128)
    assert mask_api.area(mask_api.merge(drawn) if isinstance(drawn, list) else drawn) == 0
    content = coco()
    content["annotations"][1].update(segmentation=mask, bbox=[5, 5, 3, 25], area=75)
    faults = [fault for fault in faults_of(tmp_path, content) if fault.kind == "masks without a pixel"]
    assert [fault.effect for fault in faults] == [Effect.DOUBTFUL]
    assert "annotation 2" in str(faults[0])


def test_objects_under_a_pixel_are_counted_as_the_samples_lose_them(tmp_path: Path) -> None:
    from convmae.detection.data.transforms import fit, place_objects

    rng, content = np.random.default_rng(0), coco(each=50)
    for annotation in content["annotations"]:
        annotation["bbox"][2:] = rng.uniform(0.5, 6, 2).tolist()
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(bare(content)))
    data = parse_coco(path, tmp_path, lambda fault: None)
    kept = sum(
        len(place_objects(fit(image.width, image.height, 64), data.training_objects(image), masks=False)["labels"])
        for image in data.images
    )
    lost = len(content["annotations"]) - kept
    assert 20 < lost < 180
    found: list[Fault] = []
    check_samples(data, DetectionDataOptions(img_size=64), found.append)
    (fault,) = found
    assert fault.effect is Effect.DOUBTFUL
    assert f"{lost} of 200 objects are less than a pixel wide or high at data.img_size=64" in str(fault)
    found.clear()
    check_samples(data, DetectionDataOptions(img_size=1024), found.append)
    assert not found


def test_a_split_that_loses_all_its_objects_stops(tmp_path: Path) -> None:
    content = coco()
    content["images"] = [{**image, "width": 20_000, "height": 20_000} for image in content["images"]]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(bare(content)))
    data = parse_coco(path, tmp_path, lambda fault: None, Reading(max_pixels=20_000**2))
    with pytest.raises(UserError, match=r"24 of 24 objects are less than a pixel .* factor of 2 \(data\.jitter\)"):
        data.check(lambda split, report: check_samples(split, DetectionDataOptions(img_size=64), report))


def test_no_objects_at_all_are_no_contradiction(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, {**coco(), "annotations": []})
    assert fault.kind == "splits without objects"
    assert not outlines(PackedObjects.pack([], {}).columns, np.zeros((0, 2), np.int64)).box.size
