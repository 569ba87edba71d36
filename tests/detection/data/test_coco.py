"""COCO files: what they say is read as it is, and what is wrong with one is said by file and id."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from convmae.detection.checks.preflight import check_pictures, read_splits
from convmae.detection.config import DetectionDataOptions
from convmae.detection.data.coco import check_same_classes, read_coco
from convmae.detection.data.coco_records import to_rle
from convmae.detection.data.dataset import TrainSet
from convmae.engine.errors import UserError
from convmae.engine.faults import refuse
from convmae.engine.seeding import seed_all

Change = Callable[[Callable[[dict], object]], Path]


def test_category_ids_with_gaps_become_labels_in_order_of_id_and_come_back(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    assert [(category.id, category.name) for category in data.categories] == [(3, "box"), (7, "disc"), (90, "bar")]
    assert [found.label for found in data.objects[11]] == [1, 2]
    assert {row["category_id"] for row in data.ground_truth()["annotations"]} == {3, 7, 90}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_with_its_encodings_mark_is_read(split: Path, encoding: str) -> None:
    file = split / "instances.json"
    file.write_bytes(file.read_text().replace("disc", "Scheibe für 行人").encode(encoding))
    assert [category.name for category in read_coco(file, split / "images").categories] == [
        "box",
        "Scheibe für 行人",
        "bar",
    ]


def test_a_file_in_another_encoding_is_refused(split: Path) -> None:
    file = split / "instances.json"
    file.write_bytes(file.read_text().replace("disc", "für").encode("latin-1"))
    with pytest.raises(UserError, match=r"instances\.json is not JSON \('utf-8' codec can't decode byte 0xfc"):
        read_coco(file, split / "images")


def test_crowds_are_evaluated_but_not_trained_on(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    first = data.images[0]
    assert [found.crowd for found in data.objects[first.id]] == [False, False, True]
    assert not any(found.crowd for found in data.training_objects(first))
    assert sum(row["iscrowd"] for row in data.ground_truth()["annotations"]) == 1


def test_pictures_without_objects_are_kept_or_not_as_asked(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    assert len(TrainSet(data, DetectionDataOptions(keep_empty=True), masks=True)) == 4
    assert len(TrainSet(data, DetectionDataOptions(keep_empty=False), masks=True)) == 3


def test_pictures_kept_in_memory_give_the_same_samples(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    plain, kept = (
        TrainSet(data, DetectionDataOptions(img_size=64, keep=keep), masks=True) for keep in ("none", "memory")
    )
    for seed in range(3):
        samples = []
        for one in (plain, kept):
            found = []
            for index in range(len(one)):
                seed_all(seed, index)
                found.append(one[index])
            samples.append(found)
        torch.testing.assert_close(*samples, rtol=0, atol=0)
    shutil.rmtree(split / "images")  # which is read no more
    assert len([kept[index] for index in range(len(kept))]) == 4


def test_runs_in_a_list_and_polygons_give_the_same_mask(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    runs, polygon = data.objects[11][0].segmentation, data.objects[10][0].segmentation
    assert runs is not None
    assert polygon is not None
    assert mask_api.area(to_rle(runs, 96, 64)) == mask_api.area(to_rle(polygon, 64, 96)) == 32 * 24


def test_real_annotations_are_as_pycocotools_reads_them(data_dir: Path) -> None:
    file = data_dir / "coco_mini" / "annotations" / "instances_val2017.json"
    data = read_coco(file, data_dir / "coco_mini" / "val2017")
    theirs = COCO(str(file))
    assert data.dropped == {}
    ours = {row["id"]: row for row in data.ground_truth()["annotations"]}
    assert set(ours) == set(theirs.anns)
    for number, annotation in theirs.anns.items():
        for key in ("image_id", "category_id", "area", "iscrowd"):
            assert ours[number][key] == annotation[key]
        assert ours[number]["bbox"] == pytest.approx(annotation["bbox"], abs=1e-9)
        height, width = (theirs.imgs[annotation["image_id"]][key] for key in ("height", "width"))
        mask = to_rle(ours[number]["segmentation"], height, width)
        assert mask_api.iou([mask], [theirs.annToRLE(annotation)], [0])[0, 0] == 1


def test_boxes_without_area_are_left_out_and_counted(split: Path, change: Change) -> None:
    path = change(lambda content: content["annotations"][0].update(bbox=[8, 10, 0, 24]))
    data = read_coco(path, split / "images")
    assert data.dropped == {"boxes without area": 1}
    assert "1 boxes without area" in data.describe()


def test_a_missing_area_is_taken_from_the_mask(split: Path, change: Change) -> None:
    path = change(lambda content: content["annotations"][0].pop("area"))
    assert read_coco(path, split / "images").objects[10][0].area == 32 * 24


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda c: c["annotations"][0].update(image_id=99), "annotation 1 belongs to image 99"),
        (lambda c: c["annotations"][1].update(category_id=5), "annotation 2 has category 5"),
        (lambda c: c["annotations"][2].update(id=1), "annotation 1: the id occurs twice"),
        (lambda c: c["annotations"][2]["segmentation"].update(size=[64, 96]), "annotation 3: its mask is [64, 96]"),
        (
            lambda c: c["annotations"][2]["segmentation"]["counts"].append(5),
            "annotation 3: the runs of its mask add up",
        ),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "annotation 1: its bbox is [1, 2, 3]"),
        (lambda c: c["annotations"][0].pop("segmentation"), "model.masks=false"),
        (lambda c: c["images"][0].update(file_name="gone.png"), "gone.png is missing (image 10"),
        (lambda c: c["images"][0].pop("width"), "image number 0 has no 'width'"),
        (lambda c: c["images"][0].update(id=11), "image id 11 occurs twice"),
        (lambda c: c.pop("categories"), "is not COCO: it has no list 'categories'"),
        (lambda c: c.update(images=[]), "the list 'images' is empty"),
        (lambda c: [image.update(file_name="x" + image["file_name"]) for image in c["images"]], "holds none of the 4"),
    ],
)
def test_what_is_wrong_is_said_by_file_and_id(
    split: Path, change: Change, edit: Callable[[dict], object], said: str
) -> None:
    path = change(edit)
    with pytest.raises(UserError) as error:
        read_coco(path, split / "images")
    assert said in str(error.value)
    assert str(split) in str(error.value)


def test_files_that_are_absent_or_no_coco_are_named(split: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no annotation file .*absent\.json"):
        read_coco(tmp_path / "absent.json", split / "images")
    with pytest.raises(UserError, match="There is no picture folder"):
        read_coco(split / "instances.json", tmp_path / "absent")
    (tmp_path / "bad.json").write_text("{not json")
    with pytest.raises(UserError, match=r"bad\.json is not JSON"):
        read_coco(tmp_path / "bad.json", split / "images")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserError, match="holds a JSON list"):
        read_coco(tmp_path / "list.json", split / "images")


def test_a_picture_cut_off_or_of_another_size_stops_before_training(split: Path, change: Change) -> None:
    data = read_coco(split / "instances.json", split / "images")
    check_pictures(data, 100)
    whole = (split / "images" / "1.png").read_bytes()
    (split / "images" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"1\.png can't be read as a picture"):
        check_pictures(data, 100)
    (split / "images" / "1.png").write_bytes(whole)
    path = change(lambda content: content["images"][3].update(width=72, height=96))
    with pytest.raises(UserError, match=r"3\.png is 96 x 72 pixels .* width and height are swapped"):
        check_pictures(read_coco(path, split / "images"), 100)
    path = change(lambda content: content["images"][3].update(width=100, height=72))
    with pytest.raises(UserError, match=r"3\.png is 96 x 72 pixels .* says 100 x 72 for image 13"):
        check_pictures(read_coco(path, split / "images"), 100)


def test_splits_of_other_classes_are_refused(split: Path, tmp_path: Path) -> None:
    content = json.loads((split / "instances.json").read_text())
    content["categories"].append({"id": 91, "name": "star"})
    (split / "more.json").write_text(json.dumps(content))
    ours, theirs = (read_coco(split / name, split / "images") for name in ("instances.json", "more.json"))
    with pytest.raises(UserError, match="has the class 91 'star'"):
        check_same_classes(ours, theirs, refuse)


def test_a_limit_trains_and_validates_on_the_first_pictures_with_objects(split: Path) -> None:
    options = DetectionDataOptions(root=str(split), train_images="images", train_annotations="instances.json", limit=2)
    train, val = read_splits(options, masks=True)
    assert [image.id for image in train.images] == [image.id for image in val.images] == [10, 11]
