"""The twelve numbers equal pycocotools' on random detections and on real ones; details follow from the same counts."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convmae.detection.coco import CocoData, read_coco
from convmae.detection.evaluation import STANDARD, CocoMetric, coco_results, evaluate_coco


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


def pycocotools_numbers(truth: dict[str, Any] | Path, rows: list[dict[str, Any]], kind: str) -> np.ndarray:
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
    return evaluation.stats


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_random_detections_score_as_with_pycocotools(split: Path, kind: str, seed: int) -> None:
    data = read_coco(split / "instances.json", split / "images")
    rows = coco_results(random_detections(data, seed), data)
    found = evaluate_coco(data.ground_truth(), rows, kind)
    expected = pycocotools_numbers(split / "instances.json", rows, kind)
    np.testing.assert_allclose(found.stats, expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_real_pictures_with_crowds_score_as_with_pycocotools(data_dir: Path, kind: str) -> None:
    file = data_dir / "coco_mini" / "annotations" / "instances_val2017.json"
    data = read_coco(file, data_dir / "coco_mini" / "val2017")
    rows = coco_results(random_detections(data, 0), data)
    found = evaluate_coco(data.ground_truth(), rows, kind)
    expected = pycocotools_numbers(file, rows, kind)
    np.testing.assert_allclose(found.stats, expected, atol=1e-12)
    known = found.class_ap[found.class_ap > -1]
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
        metric.process({}, [found])
    numbers = metric.evaluate(len(data.images))
    assert set(numbers) == {f"{kind}_{name}" for kind in ("bbox", "segm") for name in STANDARD}
    assert numbers["bbox_mAP"] == numbers["segm_mAP"] == pytest.approx(1)
    assert numbers["bbox_AP_large"] == -1
    assert metric.details["bbox"].class_ap.tolist() == [-1, 1, 1]  # of the class "box" there is only a crowd


def test_no_detections_score_zero(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    assert evaluate_coco(data.ground_truth(), [], "bbox").stats[0] == 0
