"""The twelve numbers equal pycocotools' on random detections and on real ones; details follow from the same counts."""

import contextlib
import io
import json
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_cases import CASES, Case
from hypothesis import Phase, assume, given, settings
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convmae.detection.data.coco import CocoData, read_coco
from convmae.detection.evaluation.coco_metric import CocoMetric, coco_results, read_results, write_results
from convmae.detection.evaluation.coco_scores import STANDARD, evaluate_coco
from convmae.engine.errors import UserError


def random_detections(data: CocoData, seed: int) -> list[dict[str, Any]]:
    """Detections near the ground truth with noise in place, class and score (many equal), and some from nowhere."""
    rng = np.random.default_rng(seed)
    predictions = []
    for image in data.images:
        boxes, labels, masks = [], [], []
        for found in data.objects.get(image.id, []):
            for _ in range(rng.integers(0, 4)):
                box = np.array(found.box) + rng.normal(0, 5, 4)
                box[:2] = box[:2].clip(0, (image.width - 2, image.height - 2))
                box[2:] = np.minimum(np.maximum(box[2:], box[:2] + 1), (image.width, image.height))
                mask = np.zeros((image.height, image.width), dtype=np.uint8, order="F")
                left, top, right, bottom = box.round().astype(int)
                mask[top : bottom + 1, left : right + 1] = rng.random() < 0.9
                boxes.append(box)
                labels.append(found.label if rng.random() < 0.8 else rng.integers(len(data.categories)))
                masks.append(mask_api.encode(mask))
        predictions.append(
            {
                "image_id": image.id,
                "boxes": torch.tensor(np.array(boxes).reshape(-1, 4)),
                "scores": torch.tensor(rng.random(len(boxes)).round(2)),
                "labels": torch.tensor(labels, dtype=torch.int64),
                "masks": [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in masks],
            }
        )
    return predictions


def pycocotools_evaluation(truth: dict[str, Any] | Path, rows: list[dict[str, Any]], kind: str) -> COCOeval:
    unwanted = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth)) if isinstance(truth, Path) else COCO()
        if isinstance(truth, dict):
            coco.dataset = truth
            coco.createIndex()
        found = coco.loadRes([{key: row[key] for key in row if key != unwanted} for row in rows])
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(CASES)
def test_random_detections_score_as_with_pycocotools(case: Case) -> None:
    data, predictions = case.make()
    rows = coco_results(predictions, data)
    assume(rows)  # without any, pycocotools stops
    for kind in ("bbox", "segm"):
        found = evaluate_coco(data.ground_truth(), rows, kind)
        truth = data.ground_truth()
        for number, annotation in enumerate(truth["annotations"], 1):
            annotation["id"] = number
        expected = pycocotools_evaluation(truth, rows, kind)
        np.testing.assert_allclose(found.stats, expected.stats, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.precision, expected.eval["precision"][..., -1], rtol=0, atol=1e-12)


def test_an_annotation_id_of_zero_counts_as_any_other(split: Path, change: Callable) -> None:
    data = read_coco(split / "instances.json", split / "images")
    rows = coco_results(random_detections(data, 0), data)
    expected = evaluate_coco(data.ground_truth(), rows, "segm").stats
    path = change(lambda content: [entry.update(id=entry["id"] - 1) for entry in content["annotations"]])
    shifted = read_coco(path, split / "images").ground_truth()
    assert shifted["annotations"][0]["id"] == 0
    np.testing.assert_array_equal(evaluate_coco(shifted, rows, "segm").stats, expected)


def test_a_crowd_without_a_mask_counts_for_boxes_alone(split: Path, change: Callable) -> None:
    with_mask = read_coco(split / "instances.json", split / "images")
    path = change(lambda content: content["annotations"][-1].pop("segmentation"))
    data = read_coco(path, split / "images")
    rows = coco_results(random_detections(data, 0), data)
    for without, kind in ((True, "segm"), (False, "bbox")):
        truth = with_mask.ground_truth()
        if without:
            truth["annotations"] = [one for one in truth["annotations"] if not one["iscrowd"]]
        expected = evaluate_coco(truth, rows, kind).stats
        np.testing.assert_array_equal(evaluate_coco(data.ground_truth(), rows, kind).stats, expected)


def test_results_are_written_as_pycocotools_reads_them_and_come_back(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    predictions = random_detections(data, 1)
    path = write_results(split / "deep" / "detections.json", predictions, data)
    with contextlib.redirect_stdout(io.StringIO()):
        alone = COCO(str(path))  # a data set by itself, of the same pictures and classes
        found = COCO(str(split / "instances.json")).loadRes(alone.dataset["annotations"])
    assert len(found.anns) == len(alone.anns) == sum(len(one["scores"]) for one in predictions)
    assert {image["file_name"] for image in alone.imgs.values()} == {image.file_name for image in data.images}
    assert [(one["id"], one["name"]) for one in alone.cats.values()] == [(one.id, one.name) for one in data.categories]
    rows = coco_results(predictions, data)
    (split / "rows.json").write_text(json.dumps(rows))
    assert [one["masks"] for one in read_results(split / "rows.json", data)] == [one["masks"] for one in predictions]
    for kind in ("bbox", "segm"):
        expected = pycocotools_evaluation(split / "instances.json", rows, kind).stats
        np.testing.assert_allclose(evaluate_coco(data.ground_truth(), rows, kind).stats, expected, atol=1e-12)
    for back, given_ in zip(read_results(path, data), predictions, strict=True):
        assert back["image_id"] == given_["image_id"]
        assert back["masks"] == given_["masks"]
        assert torch.equal(back["labels"], given_["labels"])
        for key in ("boxes", "scores"):
            torch.testing.assert_close(back[key], given_[key])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "JSONDecodeError"),
        ('{"a": 1}', "KeyError: 'annotations'"),
        ('[{"image_id": 1}]', "KeyError: 'bbox'"),
        ('[{"image_id": 5, "bbox": [0, 0, 1, 1], "category_id": 7, "score": 1}]', "KeyError: 5"),
        ('[{"image_id": 10, "bbox": [0, 0, 1, 1], "category_id": 1, "score": 1}]', "KeyError: 1"),
        ('[{"image_id": 10, "bbox": [0, 0, 1, 1e400], "category_id": 7, "score": 1}]', "not finite"),
        ('[{"image_id": 10, "bbox": [0, 0, 1, 1], "category_id": 7, "score": "much"}]', "ValueError"),
        ('[{"image_id": 10, "bbox": [0, 0, 1, 1], "category_id": 7}]', "KeyError: 'score'"),
        ("[" * 100_000, "RecursionError"),
    ],
)
def test_a_file_that_holds_no_results_on_the_data_is_refused(split: Path, text: str, message: str) -> None:
    data = read_coco(split / "instances.json", split / "images")
    (split / "detections.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(split / "detections.json", data)
    with pytest.raises(UserError, match="can't be read"):
        read_results(split / "gone.json", data)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [10**9, 10**9], "counts": [10**18]}, "row 1: its mask is"),
        ({"size": [64, 96], "counts": "PPo0"}, "row 1: the (counts|runs) of its mask"),
        ({"size": [64, 96], "counts": [6145, -1]}, "row 1: the counts of its mask are broken"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "row 1: its polygon reaches"),
        ("text", "row 1: its segmentation is neither"),
        (None, "row 1: its segmentation is neither"),
    ],
)
def test_masks_that_results_can_not_have_reach_no_library(split: Path, segmentation: object, message: str) -> None:
    data = read_coco(split / "instances.json", split / "images")
    row = {"image_id": 10, "bbox": [0, 0, 1, 1], "category_id": 7, "score": 1}
    size = [data.images[0].height, data.images[0].width]
    whole = {**row, "segmentation": {"size": size, "counts": [size[0] * size[1]]}}
    (split / "detections.json").write_text(json.dumps([whole, {**row, "segmentation": segmentation}]))
    with pytest.raises(UserError, match=message):
        read_results(split / "detections.json", data)
    (split / "detections.json").write_text(json.dumps([whole, row]))
    with pytest.raises(UserError, match="KeyError: 'segmentation'"):
        read_results(split / "detections.json", data)
    (split / "detections.json").write_text(json.dumps([whole]))
    assert len(read_results(split / "detections.json", data)[0]["masks"]) == 1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_real_pictures_with_crowds_score_as_with_pycocotools(data_dir: Path, kind: str) -> None:
    file = data_dir / "coco_mini" / "annotations" / "instances_val2017.json"
    data = read_coco(file, data_dir / "coco_mini" / "val2017")
    rows = coco_results(random_detections(data, 0), data)
    found = evaluate_coco(data.ground_truth(), rows, kind)
    expected = pycocotools_evaluation(file, rows, kind).stats
    np.testing.assert_allclose(found.stats, expected, atol=1e-12)
    known = found.class_ap()[found.class_ap() > -1]
    assert known.mean() == pytest.approx(expected[0])
    assert found.curve(0.5).mean() == pytest.approx(expected[1])


def test_the_metric_names_all_numbers_and_ground_truth_scores_one(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    metric = CocoMetric(data)
    for image in data.images:
        objects = data.training_objects(image)
        found = {
            "image_id": image.id,
            "boxes": torch.tensor([one.box for one in objects]).view(-1, 4),
            "scores": torch.ones(len(objects)),
            "labels": torch.tensor([one.label for one in objects], dtype=torch.int64),
            "masks": [mask_api.merge(mask_api.frPyObjects(one.segmentation, image.height, image.width))
                      if isinstance(one.segmentation, list) else one.segmentation for one in objects],
        }  # fmt: skip
        metric.process({}, [partial(dict, found)])
    numbers = metric.evaluate(len(data.images))
    assert set(numbers) == {f"{kind}_{name}" for kind in ("bbox", "segm") for name in STANDARD}
    assert numbers["bbox_mAP"] == numbers["segm_mAP"] == pytest.approx(1)
    assert numbers["bbox_AP_large"] == -1
    assert metric.details["bbox"].class_ap().tolist() == [-1, 1, 1]  # of the class "box" there is only a crowd


def test_no_detections_score_zero(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    for kind in ("bbox", "segm"):
        assert evaluate_coco(data.ground_truth(), [], kind).stats[0] == 0


def test_a_process_forked_after_an_evaluation_evaluates_too(split: Path) -> None:
    """The library's threads are not in it: a call there would wait for them without end."""
    data = read_coco(split / "instances.json", split / "images")
    truth, rows = data.ground_truth(), coco_results(random_detections(data, 0), data)
    known = evaluate_coco(truth, rows, "bbox").stats.tolist()
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sending.send(evaluate_coco(truth, rows, "bbox").stats.tolist()))
    child.start()
    came = receiving.poll(120)
    child.kill()
    assert came, "the forked process hangs"
    assert receiving.recv() == known
