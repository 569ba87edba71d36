"""Training says of a split what `check_data` says, and both say what keeps a perfect detector from scoring 1.0."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_detector import tiny_config

from convmae.detection.checks import splits
from convmae.detection.checks.class_names import check_learnt, check_names
from convmae.detection.checks.data_check import SplitCheck, check_data
from convmae.detection.checks.data_report import write_data_report
from convmae.detection.checks.perfect_detector import check_perfect, perfect_scores
from convmae.detection.checks.preflight import read_splits
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import parse_coco
from convmae.detection.train import test as run_test
from convmae.detection.train import train
from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, refuse
from convmae.reports.data_report import summary

Edit = Callable[[dict[str, Any]], Any]
Change = Callable[[Edit], Path]


def two_files(split: Path, edit: Edit) -> DetectionConfig:
    """Returns a recipe whose training file was edited and whose validation file was not, both of the same pictures."""
    content = json.loads((split / "instances.json").read_text())
    edit(content)
    (split / "train.json").write_text(json.dumps(content))
    return tiny_config(split, "data.train_annotations=train.json")


def rename(content: dict[str, Any]) -> None:
    content["categories"].append({"id": 91, "name": "Disc "})


EDITS: dict[str, Edit] = {
    "a box off its mask": lambda c: c["annotations"][0].update(bbox=[8, 10, 70, 24]),
    "no mask's pixel": lambda c: c["annotations"][0].update(segmentation=[[8, 10, 8, 10, 8, 10]]),
    "areas": lambda c: c["annotations"][0].update(area=5000),
    "crowds": lambda c: [one.update(iscrowd=1) for one in c["annotations"][:2]],
    "an object twice": lambda c: c["annotations"].append({**c["annotations"][0], "id": 60}),
    "a picture twice": lambda c: c["images"].append({**c["images"][0], "id": 60}),
    "an object left out": lambda c: c["annotations"][0].update(bbox=[8, 10, 0, 24]),
    "a class of one split": lambda c: [one.update(category_id=7) for one in c["annotations"]],
    "a pixel": lambda c: c["annotations"][0].update(bbox=[8, 10, 0.4, 24], segmentation=[[8, 10, 8.4, 10, 8.4, 34]]),
}


def said(faults: list[Fault]) -> dict[str, int]:
    """How many there are of each kind that a run warns of."""
    kinds = [fault.kind for fault in faults if fault.effect in (Effect.DOUBTFUL, Effect.LEFT_OUT)]
    return {kind: kinds.count(kind) for kind in kinds}


@pytest.mark.parametrize("case", EDITS)
def test_a_run_warns_of_what_the_check_finds(split: Path, caplog: pytest.LogCaptureFixture, case: str) -> None:
    config = two_files(split, EDITS[case])
    quiet = said(check_data(two_files(split, lambda content: None))[0].faults)
    checked = check_data(two_files(split, EDITS[case]))
    assert said(checked[0].faults) != quiet
    with caplog.at_level("WARNING", "convmae"):
        read_splits(config.data, masks=True)
    warned: dict[str, dict[str, int]] = {"training": {}, "validation": {}}
    for record in caplog.records:
        found = re.match(r"(\w+) data: (\d+) (.*?) \((used as it is, but|object is left out)", record.getMessage())
        assert found
        warned[found[1]][found[3]] = int(found[2])
    assert warned == {part.name: said(part.faults) for part in checked}


def test_a_run_and_its_test_show_remarks_on_their_pages_and_what_more_detections_change(
    split: Path, change: Change
) -> None:
    change(lambda c: c["annotations"].append({**c["annotations"][0], "id": 60}))
    for name in ("run", "test"):
        (split / name).mkdir()
    config = tiny_config(split, "model.detections=101")
    train(config, split / "run", resume=False)
    run_test(config, split / "run" / "model.pth", split / "test")
    for name in ("run", "test"):
        page = (split / name / "report" / "index.html").read_text()
        texts = "Remarks on the data", "objects that are listed twice", "With 101 detections a picture", "annotation 60"
        for text in texts:
            assert text in page
        numbers = json.loads((split / name / "metrics.json").read_text())
        assert numbers["segm_AR_101"] == numbers["segm_AR_100"]  # no class has 101 detections on a picture
    plain = tiny_config(split, "model.detections=100", "schedule.steps=1", "schedule.warmup=0")
    train(plain, split / "run", resume=False)
    assert "detections a picture</h2>" not in (split / "run" / "report" / "index.html").read_text()


def test_boxes_as_corners_stop_training_testing_and_the_check_alike(split: Path, change: Change) -> None:
    def corners(content: dict[str, Any]) -> None:
        for one in content["annotations"]:
            x, y, w, h = one["bbox"]
            one["bbox"] = [x, y, x + w, y + h]

    change(corners)
    config = tiny_config(split)
    messages = []
    for run in (lambda: train(config, split, resume=False), lambda: run_test(config, split / "model.pth", split)):
        with pytest.raises(
            UserError, match=r"6 of 6 boxes are right only if read as corners \[x1, y1, x2, y2\]"
        ) as error:
            run()
        messages.append(str(error.value))
    stops = [str(fault) for part in check_data(config) for fault in part.faults if fault.effect is Effect.STOPS]
    assert stops == messages


def crowd_of(counts: dict[int, int], side: float = 6.0) -> dict[str, Any]:
    """Two pictures of 300 x 300 pixels, each with so many squares of each class."""
    images = [{"id": number, "file_name": f"{number}.png", "width": 300, "height": 300} for number in (1, 2)]
    annotations: list[dict[str, Any]] = []
    for image in (1, 2):
        place = 0
        for category, count in counts.items():
            for _ in range(count):
                x, y = 10.0 * (place % 30), 10.0 * (place // 30)
                place += 1
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": category,
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
                    }
                )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def by_pycocotools(path: Path, kind: str) -> float:
    """COCO's AP of a file's objects as detections."""
    truth = COCO(str(path))
    rows = [{**one, "score": 1.0} for one in truth.dataset["annotations"]]
    if kind == "bbox":
        rows = [{key: row[key] for key in ("image_id", "category_id", "bbox", "score")} for row in rows]
    else:
        rows = [{**row, "segmentation": truth.annToRLE(row)} for row in rows]
        for row in rows:
            del row["bbox"]
    evaluation = COCOeval(truth, truth.loadRes(rows), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize(
    ("counts", "beyond"), [({1: 90, 2: 90}, 0), ({1: 100, 2: 20}, 0), ({1: 240}, 280), ({1: 101, 2: 90}, 2)]
)
def test_a_perfect_detector_scores_what_pycocotools_gives_and_less_than_1_is_explained(
    tmp_path: Path, counts: dict[int, int], beyond: int
) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(crowd_of(counts)))
    data = parse_coco(path, tmp_path, lambda fault: None)
    scores = perfect_scores(data, masks=True)
    assert scores == {f"{kind}_mAP": pytest.approx(by_pycocotools(path, kind), abs=1e-6) for kind in ("bbox", "segm")}
    found: list[Fault] = []
    check_perfect(data, scores, found.append)
    assert (scores["bbox_mAP"] < 1) == bool(beyond) == bool(found)
    if beyond:
        assert f"{beyond} objects on 2 pictures are beyond the 100 detections of a class" in str(found[0])
        assert f"{scores['bbox_mAP']:.4f} box AP" in str(found[0])


def test_masks_without_a_pixel_lower_the_mask_ap_alone_and_are_named(tmp_path: Path) -> None:
    content = crowd_of({1: 8})
    content["annotations"][3]["segmentation"] = [[30, 0, 30, 0, 30, 0]]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    data = parse_coco(path, tmp_path, lambda fault: None)
    scores = perfect_scores(data, masks=True)
    assert scores["bbox_mAP"] == pytest.approx(1)
    assert scores["segm_mAP"] == pytest.approx(by_pycocotools(path, "segm"), abs=1e-6)
    assert scores["segm_mAP"] < 1
    found: list[Fault] = []
    check_perfect(data, scores, found.append)
    (fault,) = found
    assert "1 masks hold no pixel" in str(fault)
    assert "box AP" not in str(fault)
    assert perfect_scores(data, masks=False) == {"bbox_mAP": pytest.approx(1)}


@pytest.mark.parametrize("seed", range(3))
def test_no_other_cause_than_those_named_lowers_a_perfect_score(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = crowd_of({1: 40, 2: 40})
    for one in content["annotations"]:
        w, h = np.exp(rng.uniform(np.log(0.05), np.log(200), 2)).tolist()
        x, y = (rng.uniform(-0.4, 1, 2) * (300, 300)).tolist()
        points = rng.uniform(0, 1, (5, 2)) * (w, h) + (x, y)
        one.update(
            bbox=[x, y, w, h], area=w * h, iscrowd=int(rng.random() < 0.1), segmentation=[points.ravel().tolist()]
        )
    content["annotations"] += [{**one, "id": 500 + one["id"]} for one in content["annotations"][:20]]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    data = parse_coco(path, tmp_path, lambda fault: None)
    found: list[Fault] = []
    check_perfect(data, perfect_scores(data, masks=True), found.append)
    assert found
    assert not any("none that this check knows" in str(fault) for fault in found)


def test_the_perfect_score_is_on_the_terminal_on_the_page_and_in_the_numbers(split: Path) -> None:
    checked = check_data(tiny_config(split))
    assert checked[1].perfect == {"bbox_mAP": pytest.approx(1), "segm_mAP": pytest.approx(1)}
    assert any("a perfect detector scores 1.0000 box AP, 1.0000 mask AP" in line for line in summary(checked))
    write_data_report(checked, split)
    assert json.loads((split / "metrics.json").read_text())["validation"]["perfect"] == checked[1].perfect
    assert "a perfect detector, by COCO" in (split / "report" / "index.html").read_text()


def test_more_objects_of_a_class_than_coco_counts_and_than_the_detector_keeps_are_two_remarks(tmp_path: Path) -> None:
    from PIL import Image

    for counts, expected in (
        (
            {1: 240},
            {
                "pictures with more objects of a class than COCO counts": 2,
                "splits with more objects than detections": 1,
            },
        ),
        ({1: 90, 2: 90}, {"splits with more objects than detections": 1}),
        ({1: 50, 2: 50}, {}),
    ):
        (tmp_path / "images").mkdir(exist_ok=True)
        for number in (1, 2):
            Image.new("RGB", (300, 300)).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "instances.json").write_text(json.dumps(crowd_of(counts)))
        config = tiny_config(tmp_path, "model.detections=100", "data.img_size=320")
        _, val = read_splits(config.data, masks=True, detections=config.model.detections)
        others = ("splits that are one and the same", "files with rectangles for masks")
        found = {remark.kind: remark.count for remark in val.remarks if remark.kind not in others}
        assert found == expected
        checked: SplitCheck = check_data(config)[1]
        assert {kind: count for kind, count in said(checked.faults).items() if kind in expected} == expected


def categories(tmp_path: Path, listed: list[dict[str, Any]], name: str = "instances.json") -> Any:
    path = tmp_path / name
    path.write_text(json.dumps({**crowd_of({1: 2, 2: 2}), "categories": listed}))
    return parse_coco(path, tmp_path, lambda fault: None)


def test_a_class_without_objects_is_doubted_in_one_line_and_a_group_named_as_one(tmp_path: Path) -> None:
    listed = [{"id": 1, "name": "fish", "supercategory": "life"}, {"id": 2, "name": "tank", "supercategory": "life"}]
    found: list[Fault] = []
    data = categories(tmp_path, listed)
    check_learnt(data, data, found.append)
    assert not found
    data = categories(tmp_path, [{"id": 0, "name": "life", "supercategory": "none"}, *listed])
    check_learnt(data, data, found.append)
    (fault,) = found
    assert fault.effect is Effect.DOUBTFUL
    assert "1 of 3 classes have no object (crowds aside): 'life'; 'life' is the supercategory of others" in str(fault)
    found.clear()
    data = categories(tmp_path, [*listed, *({"id": number, "name": f"rare {number}"} for number in range(3, 1201))])
    check_learnt(data, data, found.append)
    (fault,) = found
    assert "1198 of 1200 classes have no object" in str(fault)
    assert "and 1193 more" in str(fault)
    assert len(str(fault)) < 600


def test_classes_that_validation_alone_has_objects_of_are_doubted(tmp_path: Path) -> None:
    listed = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    val = categories(tmp_path, listed, "val.json")
    (tmp_path / "train.json").write_text(json.dumps(crowd_of({1: 2})))
    found: list[Fault] = []
    check_learnt(parse_coco(tmp_path / "train.json", tmp_path, found.append), val, found.append)
    (fault,) = found
    assert fault.effect is Effect.DOUBTFUL
    assert "has no object of 1 classes that" in str(fault)
    assert "'b'" in str(fault)


@pytest.mark.parametrize(
    ("name", "doubted"), [("DontCare", 1), ("Ignored_regions", 1), ("__background__", 1), ("void deck", 0), ("cat", 0)]
)
def test_a_class_with_objects_that_is_named_as_none_is_doubted(split: Path, name: str, doubted: int) -> None:
    content = json.loads((split / "instances.json").read_text())
    content["categories"][0]["name"] = name
    (split / "instances.json").write_text(json.dumps(content))
    found: list[Fault] = []
    check_names(parse_coco(split / "instances.json", split, found.append), found.append)
    assert [fault.kind for fault in found] == ["classes named as if they were none"] * doubted
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] != 7]
    (split / "instances.json").write_text(json.dumps(content))
    check_names(parse_coco(split / "instances.json", split, found.append), found.append)
    assert len(found) == doubted


@pytest.mark.parametrize(
    ("names", "doubted"),
    [
        (("cat", "dog"), 0),
        (("cat", "cat"), 1),
        (("Traffic light", "traffic_light "), 1),
        (("caf\u00e9", "cafe\u0301"), 1),
        (("cat", " "), 1),
        (("dark blue", "light blue"), 0),
        (("1", "11"), 0),
    ],
)
def test_classes_of_the_same_name_are_doubted(tmp_path: Path, names: tuple[str, str], doubted: int) -> None:
    found: list[Fault] = []
    check_names(categories(tmp_path, [{"id": 1, "name": names[0]}, {"id": 2, "name": names[1]}]), found.append)
    assert [fault.effect for fault in found] == [Effect.DOUBTFUL] * doubted


def test_a_picture_of_more_masks_than_a_sample_holds_stops(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = two_files(split, lambda content: None)
    data = parse_coco(split / "train.json", split / "images", refuse)
    most = max(data.packed.learnable(image) for image in data.images)
    for room, masks, kinds in ((most, True, 0), (most - 1, True, 1), (most - 1, False, 0)):
        monkeypatch.setattr(splits, "MASKS", room * config.data.img_size**2)
        config.model.masks = masks
        faults = [str(fault) for fault in check_data(config)[0].faults if "more masks" in fault.kind]
        assert bool(faults) == bool(kinds)
        for fault in faults:
            assert f"has {most} objects, whose masks take" in fault
            assert f"in a sample of data.img_size={config.data.img_size}; expected {room} at most" in fault
        if kinds:
            with pytest.raises(UserError, match="whose masks take"):
                read_splits(config.data, masks)
