"""Detections on the pictures that a COCO file lists, as its test sets do without annotations: rows that its servers take."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from tiny_detector import CLASSES, write_run

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import ImageRecord
from convmae.detection.data.dataset import EvalSet, collate_test
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config
from convmae.tools import predict


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A detector with random weights and the recipe of its run beside it, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return tmp_path


def list_pictures(**more: Any) -> list[int]:
    """Writes four pictures and test.json, which lists them as COCO's test sets do; returns their ids."""
    Path("test2017/deep").mkdir(parents=True, exist_ok=True)
    entries = []
    for number, (name, width, height) in enumerate((("1.png", 70, 50), ("deep/2.jpg", 40, 64), ("3", 64, 64))):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path("test2017", name), format="PNG")
        entries.append({"id": 581000 - 7 * number, "file_name": name, "width": width, "height": height})
    entries.append({**entries[0], "id": 42.0})  # a second entry of one file
    Path("test.json").write_text(json.dumps({"info": {}, "images": entries, **more}))
    return [581000, 580993, 580986, 42]


LISTED = ["det", "model.pth", "test2017", "--annotations", "test.json", "--device", "cpu"]
NAMED = [{"id": one.id, "name": one.name} for one in CLASSES]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"categories": NAMED},
        {"categories": [], "annotations": []},
        {"categories": NAMED[::-1], "annotations": [{"id": 1, "image_id": 42, "category_id": 7, "bbox": [1, 2, 3, 4]}]},
    ],
    ids=["pictures alone", "image_info", "empty lists", "annotated"],
)
def test_pictures_that_a_coco_file_lists_have_its_ids(run_dir: Path, more: dict[str, Any]) -> None:
    ids = list_pictures(**more)
    assert predict.main([*LISTED, "--output", "out"]) == 0
    whole = json.loads(Path("out/detections.json").read_text())
    assert sorted(one["id"] for one in whole["images"]) == sorted(ids)
    boxes, masks = (json.loads(Path(f"out/results_{kind}.json").read_text()) for kind in ("bbox", "segm"))
    assert {frozenset(row) for row in boxes} == {frozenset(("image_id", "category_id", "bbox", "score"))}
    assert {frozenset(row) for row in masks} == {frozenset(("image_id", "category_id", "segmentation", "score"))}
    assert {row["image_id"] for row in boxes} == set(ids)
    assert {row["category_id"] for row in boxes} <= {3, 7, 90}
    assert [row["bbox"] for row in boxes if row["image_id"] == 42] == [
        row["bbox"] for row in boxes if row["image_id"] == 581000
    ]
    truth = COCO()
    truth.dataset = {"info": {}, "images": whole["images"], "categories": NAMED, "annotations": []}
    truth.createIndex()
    for rows in (boxes, masks):  # which is how COCO's servers read them
        assert len(truth.loadRes(copy.deepcopy(rows)).anns) == len(rows) > 4
    sizes = {one["id"]: [one["height"], one["width"]] for one in whole["images"]}
    assert all(row["segmentation"]["size"] == sizes[row["image_id"]] for row in masks)
    drawn = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.*g")}
    assert drawn == {"1.png", "deep/2.jpg", "3.png"}


def test_rows_of_listed_pictures_are_those_of_a_test(run_dir: Path) -> None:
    """All that an evaluation counts: down to the recipe's threshold, not to that of drawings."""
    ids = list_pictures()
    assert predict.main([*LISTED, "--no-drawings", "--cfg-options", "model.score_threshold=0.04"]) == 0
    assert sorted(path.name for path in Path("predictions").iterdir()) == [
        "detections.json", "results_bbox.json", "results_segm.json",
    ]  # fmt: skip
    rows = json.loads(Path("predictions/results_segm.json").read_text())
    config = load_config(DetectionConfig, "config.yaml", ["model.score_threshold=0.04"])
    model = DetectionModel(config, CLASSES).eval()
    model.load_state_dict(torch.load("model.pth", weights_only=True)["model"])
    images = [ImageRecord(one["id"], one["file_name"], one["width"], one["height"])
              for one in json.loads(Path("test.json").read_text())["images"][:3]]  # fmt: skip
    data = CocoData(Path("none.json"), run_dir / "test2017", CLASSES, images, {})
    for number in range(3):
        with torch.no_grad():
            (found,) = model(**collate_test([EvalSet(data, 64)[number]]), mode="predict")
        own = [row for row in rows if row["image_id"] == ids[number]]
        assert [row["score"] for row in own] == pytest.approx(found["scores"].tolist())
        assert [row["segmentation"] for row in own] == found["masks"]
        assert [row["category_id"] for row in own] == [CLASSES[label].id for label in found["labels"].tolist()]
    assert min(row["score"] for row in rows) < 0.5
    assert predict.main([*LISTED, "--no-drawings", "--overwrite", "--score-threshold", "1"]) == 0
    assert json.loads(Path("predictions/results_bbox.json").read_text()) == []


def test_classes_have_the_ids_that_the_file_gives_their_names(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    names = {"bar": 1, "box": 52, "disc": 53, "more": 90}
    list_pictures(categories=[{"id": number, "name": name} for name, number in names.items()])
    assert predict.main([*LISTED, "--no-drawings"]) == 0
    theirs = json.loads(Path("predictions/results_bbox.json").read_text())
    assert json.loads(Path("predictions/detections.json").read_text())["categories"] == [
        {"id": 52, "name": "box"}, {"id": 53, "name": "disc"}, {"id": 1, "name": "bar"},
    ]  # fmt: skip
    list_pictures()
    assert predict.main([*LISTED, "--no-drawings", "--overwrite"]) == 0
    ours = json.loads(Path("predictions/results_bbox.json").read_text())
    moved = {3: 52, 7: 53, 90: 1}
    assert theirs == [{**row, "category_id": moved[row["category_id"]]} for row in ours]


def test_listed_pictures_that_cant_be_read_are_named_and_the_others_done(
    run_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    ids = list_pictures()
    Path("test2017/3").write_bytes(b"none")
    Image.new("RGB", (64, 40)).save("test2017/deep/2.jpg")
    assert predict.main([*LISTED, "--no-drawings"]) == 1
    said = capsys.readouterr()
    assert "test2017/3 can't be read as a picture" in said.err
    assert "2.jpg is 64 x 40 pixels" in said.err
    assert "2 could not be read" in said.out
    found = {row["image_id"] for row in json.loads(Path("predictions/results_bbox.json").read_text())}
    assert found == {ids[0], ids[3]}


@pytest.mark.parametrize("name", ["../test2017/1.png", "{run}/test2017/deep/2.jpg", "deep/../../secret.png"])
def test_names_that_lead_away_are_refused_and_nothing_is_written(
    run_dir: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    list_pictures()
    content = json.loads(Path("test.json").read_text())
    content["images"][0]["file_name"] = name.format(run=run_dir)
    Path("test.json").write_text(json.dumps(content))
    before = sorted(run_dir.rglob("*"))
    assert predict.main([*LISTED, "--output", "out/deep"]) == 2
    assert "leads out of the picture folder; write the names relative to that folder" in capsys.readouterr().err
    assert sorted(run_dir.rglob("*")) == before


def test_mistakes_with_listed_pictures_are_answered_in_one_line(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    list_pictures(categories=[{"id": 1, "name": "cat"}])
    Path("other.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "a\\1.png", "width": 70, "height": 50}]})
    )
    Path("text.json").write_text(json.dumps({"images": [{"id": "1", "file_name": "1.png", "width": 70, "height": 50}]}))
    Path("twice.json").write_text(json.dumps({"images": [], "categories": []}))
    double = [{"id": number, "name": name} for number, name in enumerate(("box", "disc", "bar", "bar"))]
    Path("double.json").write_text(json.dumps({**json.loads(Path("text.json").read_text()), "images": [
        {"id": 1, "file_name": "1.png", "width": 70, "height": 50}], "categories": double}))  # fmt: skip
    for argv, said in (
        (["test2017", "--annotations", "test.json"], "no class 'box'; the detector's 3 classes are: box, disc, bar."),
        (["test2017", "--annotations", "double.json"], "double.json gives one name to two classes"),
        (["test2017/1.png", "--annotations", "test.json"], "expected one folder"),
        (["test2017", "test2017/deep", "--annotations", "test.json"], "expected one folder"),
        (["test2017", "--annotations", "other.json"], "differs from the file '1.png' by backslashes"),
        (["test2017", "--annotations", "text.json"], "its id is the text '1'; expected a whole number"),
        (["test2017", "--annotations", "twice.json"], "the list 'images' is empty"),
        (["test2017", "--annotations", "gone.json"], "There is no annotation file gone.json"),
    ):  # fmt: skip
        assert predict.main(["det", "model.pth", *argv]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert said in error
