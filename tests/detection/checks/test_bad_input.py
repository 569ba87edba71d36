"""Whatever lies in a data set is used, left out and counted, or refused by file and id before the first step."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_detector import tiny_config

from convmae.detection.checks.data_check import check_data
from convmae.detection.checks.preflight import read_splits
from convmae.detection.config import DetectionConfig, DetectionDataOptions
from convmae.detection.data.coco import parse_coco, read_coco
from convmae.detection.data.dataset import EvalSet, TrainSet
from convmae.detection.train import train
from convmae.engine.errors import UserError
from convmae.engine.faults import UNREADABLE, Effect, Fault
from convmae.engine.pictures.images import look_at, read_image

Edit = Callable[[dict[str, Any]], object]


def on(number: int, **values: Any) -> Edit:
    """An edit of one annotation."""
    return lambda content: content["annotations"][number].update(values)


def config_of(split: Path, *overrides: str) -> DetectionConfig:
    return tiny_config(split, "model.norm=gn", "schedule.steps=3", "schedule.warmup=0", *overrides)


REFUSED: dict[str, tuple[Edit, str]] = {
    "duplicate id": (on(2, id=1), "annotation 1: the id occurs twice"),
    "unknown category": (on(1, category_id=5), "annotation 2 has category 5"),
    "category in a list": (on(1, category_id=[7]), "annotation 2: its category_id is [7]"),
    "unknown image": (on(0, image_id=99), "annotation 1 belongs to image 99"),
    "image in a list": (on(0, image_id=[10]), "annotation 1: its image_id is [10]"),
    "huge id": (on(0, id=2**70), "its id is 1180591620717411303424"),
    "box of three": (on(0, bbox=[1, 2, 3]), "annotation 1: its bbox is [1, 2, 3]"),
    "box of words": (on(0, bbox=["1", "2", "3", "4"]), "annotation 1: its bbox is"),
    "endless box": (on(0, bbox=[0, 0, float("inf"), 4]), "annotation 1: its bbox is"),
    "box of no number": (on(0, bbox=[0, 0, float("nan"), 4]), "annotation 1: its bbox is"),
    "huge number": (on(0, bbox=[0, 0, 10**400, 4]), "annotation 1: its bbox is"),
    "flat polygon": (on(0, segmentation=[1, 2, 3, 4, 5, 6]), "found one list of 6 numbers"),
    "odd polygon": (on(0, segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "found a polygon of 7 numbers"),
    "polygon of words": (on(0, segmentation=[["1", 2, 3, 4, 5, 6]]), "found numbers written as texts"),
    "mask of another size": (on(2, segmentation={"size": [64, 96], "counts": [6144]}), "annotation 3: its mask is [64, 96]"),
    "runs too many": (on(2, segmentation={"size": [96, 64], "counts": [6144, 5]}), "annotation 3: the runs"),
    "negative run": (on(2, segmentation={"size": [96, 64], "counts": [6145, -1]}), "annotation 3: the counts"),
    "no run": (on(2, segmentation={"size": [96, 64], "counts": []}), "annotation 3: the runs"),
    "text of no runs": (on(2, segmentation={"size": [96, 64], "counts": "abc~"}), "annotation 3: the counts"),
    "text cut off": (on(2, segmentation={"size": [96, 64], "counts": "Pf0P"}), "annotation 3: the counts"),
    "text of another mask": (on(2, segmentation={"size": [96, 64], "counts": "P4"}), "annotation 3: the runs"),
    "segmentation of words": (on(0, segmentation="yes"), "annotation 1: its segmentation is neither"),
    "no segmentation": (on(0, segmentation=[]), "annotation 1 has no segmentation"),
    "odd crowd": (on(0, iscrowd="no"), "annotation 1: its iscrowd is the text 'no'"),
    "no box": (lambda c: c["annotations"][0].pop("bbox"), "annotation 1 has no 'bbox'"),
    "no annotation": (lambda c: c["annotations"].append(7), "annotation 7 is a int"),
    "missing picture": (lambda c: c["images"][1].update(file_name="gone.png"), "gone.png is missing (image 11"),
    "picture of no size": (lambda c: c["images"][1].update(width=0), "image 11 is 0 x 96"),
    "picture twice": (lambda c: c["images"].append(c["images"][0]), "image id 10 occurs twice"),
    "other size": (lambda c: c["images"][3].update(width=97), "says 97 x 72 for image 13"),
    "class twice": (lambda c: c["categories"].append(c["categories"][0]), "category id 7 occurs twice"),
    "no pictures": (lambda c: c.update(images=[]), "the list 'images' is empty"),
    "no objects": (lambda c: c.update(annotations=[]), "no picture holds an object"),
    "crowds alone": (lambda c: c.update(annotations=c["annotations"][-1:]), "no picture holds an object"),
}  # fmt: skip

LEFT_OUT: dict[str, tuple[Edit, str]] = {
    "no width": (on(0, bbox=[8, 10, 0, 24]), "boxes without area"),
    "negative height": (on(0, bbox=[8, 10, 4, -1]), "boxes without area"),
    "outside": (on(0, bbox=[96, 10, 5, 5]), "boxes outside their picture"),
    "two points": (on(0, segmentation=[[8, 10, 40, 34]]), "polygons of less than three points"),
    "empty polygon": (on(0, segmentation=[[]]), "polygons of less than three points"),
    "polygon far away": (on(0, segmentation=[[8, 10, 1e9, 34, 40, 60]]), "polygons far outside their picture"),
    "polygon of no number": (on(0, segmentation=[[8, 10, float("nan"), 34, 9, 9]]), "polygons far outside their picture"),
}  # fmt: skip

USED: dict[str, tuple[Edit, str]] = {
    "partly outside": (on(0, bbox=[-20, -20, 500, 500]), "boxes partly outside"),
    "one part of two points": (
        lambda c: c["annotations"][0]["segmentation"].append([1, 2, 3, 4]),
        "parts of less than three points",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_training_refuses_it_names_and_the_check_finds_too(
    split: Path, change: Callable[[Edit], Path], case: str
) -> None:
    edit, said = REFUSED[case]
    change(edit)
    config = config_of(split)
    with pytest.raises(UserError) as error:
        read_splits(config.data, masks=True)
    assert said in str(error.value)
    assert str(split) in str(error.value)
    found = [str(fault) for fault in check_data(config)[0].faults if fault.effect is Effect.STOPS]
    assert str(error.value) in found


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_can_not_be_learnt_from_is_left_out_and_counted(
    split: Path, change: Callable[[Edit], Path], case: str
) -> None:
    edit, reason = LEFT_OUT[case]
    change(edit)
    config = config_of(split)
    data, _ = read_splits(config.data, masks=True)
    assert data.dropped == {reason: 1}
    assert [found.id for found in data.objects[10]] == [2, 50]
    (fault,) = [fault for fault in check_data(config)[0].faults if fault.effect is Effect.LEFT_OUT]
    assert fault.kind == reason
    assert "annotation 1" in str(fault)
    every_sample(read_coco(split / "instances.json", split / "images"))


@pytest.mark.parametrize("case", USED)
def test_what_is_used_as_it_is_is_remarked_by_check_and_run(
    split: Path, change: Callable[[Edit], Path], case: str
) -> None:
    edit, kind = USED[case]
    change(edit)
    data, _ = read_splits(config_of(split).data, masks=True)
    assert data.dropped == {}
    assert kind in [remark.kind for remark in data.remarks if remark.effect is Effect.NOTE]
    assert kind in [fault.kind for fault in check_data(config_of(split))[0].faults if fault.effect is Effect.NOTE]
    every_sample(data)


def every_sample(data: Any) -> None:
    """Makes all samples, with boxes in the square and a mask for each."""
    random.seed(0)
    for sample in (*TrainSet(data, DetectionDataOptions(img_size=64), masks=True), *EvalSet(data, 64)):
        if "target" in sample:
            boxes, masks = sample["target"]["boxes"], sample["target"]["masks"]
            assert len(boxes) == len(masks)
            assert ((boxes >= 0) & (boxes <= 64)).all()
            assert masks.flatten(1).any(dim=1).all()


ODD = [None, True, -1, 0, 0.5, 2**70, float("nan"), float("-inf"), "", "x", "0", [], [1], [[]], {}, {"size": [96, 64]}]


def test_no_change_of_any_value_makes_it_fail_but_by_saying_what_is_wrong(split: Path) -> None:
    path = split / "instances.json"
    content = json.loads(path.read_text())
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        changed = copy.deepcopy(content)
        places = list(_places(changed))
        holder, key = rng.choice(places)
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
        path.write_text(json.dumps(changed))
        said = use(split)
        refused += said is not None
        assert said is None or str(split) in said
    assert 100 < refused < 390


def use(split: Path) -> str | None:
    """Checks the data and makes all samples; returns what is refused, if it is."""
    path, faults = split / "instances.json", list[Fault]()
    try:
        parse_coco(path, split / "images", faults.append)
        every_sample(read_coco(path, split / "images"))
    except UserError as error:
        return str(error)
    return None


def _places(node: Any) -> Any:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])


def odd_picture(kind: str, path: Path) -> Path:
    """Writes a picture of 80 x 60 pixels, or of the size that its kind names, upright as it is to be seen; returns its file."""
    width, height = {"1 x 1": (1, 1), "1 x 4000": (1, 4000), "4000 x 1": (4000, 1)}.get(kind, (80, 60))
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if kind == "16 bit":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif kind == "CMYK":
        path, image = path.with_suffix(".jpg"), image.convert("CMYK")
    elif kind == "EXIF":
        path, image = path.with_suffix(".jpg"), image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # shown after a quarter turn clockwise
        image.save(path, exif=exif)
        return path
    elif kind in ("P", "L", "LA", "RGBA", "1"):
        image = image.convert(kind)
    image.save(path)
    return path


PICTURES = ("1 x 1", "1 x 4000", "4000 x 1", "16 bit", "CMYK", "P", "L", "LA", "RGBA", "1", "EXIF")


def write_odd_split(folder: Path, kinds: tuple[str, ...]) -> None:
    """One picture of each kind, each with an object over most of it."""
    (folder / "images").mkdir()
    images, annotations = [], []
    for number, kind in enumerate(kinds, 1):
        path = odd_picture(kind, folder / "images" / f"{number}.png")
        width, height = {"1 x 1": (1, 1), "1 x 4000": (1, 4000), "4000 x 1": (4000, 1)}.get(kind, (80, 60))
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [0, 0, width, height],
                "segmentation": [[0, 0, width, 0, width, height, 0, height]],
            }
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(content))


@pytest.mark.parametrize("kinds", [PICTURES[:3], PICTURES[3:7], PICTURES[7:]], ids=lambda kinds: ", ".join(kinds))
def test_odd_pictures_train_and_are_evaluated(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    write_odd_split(tmp_path, kinds)
    (tmp_path / "run").mkdir()
    config = config_of(tmp_path, f"data.batch_size={len(kinds)}")  # each is in every step
    train(config, tmp_path / "run", resume=False)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 <= metrics["bbox_mAP"] <= 1
    assert 0 <= metrics["segm_mAP"] <= 1
    losses = [json.loads(line) for line in (tmp_path / "run" / "scalars.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in losses if "loss" in row)


def test_a_picture_damaged_in_its_middle_is_found_by_the_check_and_ends_a_run_with_what_it_has_learnt(
    split: Path,
) -> None:
    path = split / "images" / "1.png"
    noise = np.random.default_rng(0).integers(0, 255, (*np.array(Image.open(path)).shape[:2], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="JPEG", quality=95)  # its end mark stays
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xda" * 10 + whole[len(whole) // 2 + 20 :])
    look_at(path)
    with pytest.raises(UserError):
        read_image(path)
    assert "unreadable pictures" in {fault.kind for part in check_data(config_of(split)) for fault in part.faults}
    config = config_of(split, "data.batch_size=1", "schedule.steps=20", "schedule.save_every=20", "data.workers=1")
    with pytest.raises(UserError, match=r"1\.png can't be read as a picture"):
        train(config, split, resume=False)
    (kept,) = split.glob("step_*.pth")
    assert 0 < int(kept.stem[5:]) < 20


def test_a_picture_of_another_size_is_named_from_a_loader_process(split: Path) -> None:
    config = config_of(split, "data.workers=1", "data.check_pictures=1")  # the first
    last = sorted((split / "images").rglob("*.png"))[-1]
    Image.new("RGB", (7, 7)).save(last)
    with pytest.raises(UserError, match=r"is 7 x 7 pixels .* image \d+; expected the same size"):
        train(config, split, resume=False)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\xff\xd8\xff\xe0" + bytes(100)]
)
def test_a_file_that_is_no_picture_stops_before_the_first_step(split: Path, content: bytes) -> None:
    (split / "images" / "1.png").write_bytes(content)
    with pytest.raises(UserError, match=r"1\.png can't be read as a picture .* image 11 of .*instances\.json"):
        train(config_of(split), split, resume=False)
    assert not list(split.glob("step_*"))


def test_where_a_run_is_to_skip_a_broken_picture_it_trains_on_others_and_names_it(split: Path) -> None:
    (split / "images" / "1.png").write_bytes(b"no picture")
    options = [
        "data.on_bad_image=skip",
        "data.bad_share=0.5",
        "data.batch_size=2",
        "data.val_annotations=val.json",
    ]
    content = json.loads((split / "instances.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] != 11]  # what is evaluated is read
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 11]
    (split / "val.json").write_text(json.dumps(content))
    training, _ = check_data(config_of(split, *options))
    assert [fault.effect for fault in training.faults if fault.kind == UNREADABLE] == [Effect.SKIPPED]
    train(config_of(split, *options), split / "run", resume=False)
    told = json.loads((split / "run" / "metrics.json").read_text())["unreadable"]
    assert list(told["pictures"]) == [str(split / "images" / "1.png")]
    with pytest.raises(UserError, match=r"1\.png can't be read"):  # in the validation split, too
        train(config_of(split, *options, "data.val_annotations=instances.json"), split / "other", resume=False)
