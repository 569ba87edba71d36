"""COCO evaluation: the twelve standard numbers for boxes and for masks, and what the report shows beside them."""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import to_rle
from convmae.detection.data.segmentations import read_segmentation
from convmae.engine.errors import UserError
from convmae.engine.faults import refuse
from convmae.engine.files import write_whole
from convmae.engine.machine.forks import threads_of
from convmae.engine.machine.memory import collector_paused
from convmae.engine.training.metric import PictureMetric

STANDARD = (
    "mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
COUNTED = 100  # detections of a class on a picture that the numbers are of
BEYOND = ("mAP", "AP50", "AP75", "AR")  # what is told of a larger number of detections, too
THREADS = 2  # that make detections' masks while the model computes the next pictures' detections
SIZES = ("all", "small", "medium", "large")


@dataclass
class Details:
    """What stands behind the twelve numbers of one kind (bbox or segm). -1 marks what has no ground truth.

    precision: [10 IoU thresholds 0.5..0.95, 101 recall levels, classes, 4 sizes], 100 detections a picture.
    """

    stats: NDArray[np.float64]
    precision: NDArray[np.float64]
    beyond: tuple[float, ...] = ()  # BEYOND, where more than 100 detections were to be counted

    def class_ap(self, size: str = "all", iou: float | None = None) -> NDArray[np.float64]:
        """AP of each class for one size of objects, at one IoU threshold or averaged over all; -1 without ground truth."""
        at = slice(None) if iou is None else [_threshold(iou)]
        return _mean_known(self.precision[at, :, :, SIZES.index(size)], axes=(0, 1))

    def curve(self, iou: float) -> NDArray[np.float64]:
        """Precision at the 101 recall levels, averaged over classes that have ground truth."""
        at = self.precision[_threshold(iou), :, :, 0]
        known = (at > -1).all(axis=0)
        return at[:, known].mean(axis=1) if known.any() else np.zeros(len(at))


class CocoMetric(PictureMetric):
    """COCO's numbers as bbox_mAP, bbox_AP50, ..., segm_mAP, ...; what it found stays on it for the report.

    detections: how many a detector keeps of a picture; where 200 are, bbox_mAP_200 and its like (``BEYOND``) count so many.
    """

    def __init__(self, data: CocoData, masks: bool = True, detections: int = COUNTED) -> None:
        super().__init__()
        self.detections = detections
        self.data, self.kinds = data, ("bbox", "segm") if masks else ("bbox",)
        self.details: dict[str, Details] = {}
        self.predictions: list[dict[str, Any]] = []
        self.scoring = 0.0  # seconds from detections to numbers
        self._threads: ThreadPoolExecutor | None = None  # during an evaluation

    def measure(self, sample: Callable[[], dict[str, Any]]) -> Future:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS)
        return self._threads.submit(sample)

    def evaluate(self, size: int) -> dict[str, float]:
        try:
            return super().evaluate(size)
        finally:
            if self._threads is not None:  # none is left when loader processes are forked for the next one
                self._threads.shutdown()
                self._threads = None

    def compute_metrics(self, results: list) -> dict[str, float]:
        started = time.perf_counter()
        self.predictions = results
        rows, truth = coco_results(results, self.data), self.data.ground_truth()
        numbers: dict[str, float] = {}
        for kind in self.kinds:
            details = self.details[kind] = evaluate_coco(truth, rows, kind, self.detections)
            numbers |= {f"{kind}_{name}": value for name, value in zip(STANDARD, details.stats.tolist(), strict=True)}
            numbers |= {
                f"{kind}_{name}_{self.detections}": value
                for name, value in zip(BEYOND, details.beyond, strict=bool(details.beyond))
            }
        self.scoring = time.perf_counter() - started
        return numbers


def coco_results(predictions: Sequence[dict[str, Any]], data: CocoData) -> list[dict[str, Any]]:
    """Returns detections as COCO's result rows: image_id, category_id, bbox (left, top, width, height), score, segmentation."""
    rows = []
    for found in predictions:
        boxes, scores = found["boxes"].double().tolist(), found["scores"].double().tolist()
        masks = found.get("masks", [None] * len(boxes))
        for (left, top, right, bottom), score, label, mask in zip(
            boxes, scores, found["labels"].tolist(), masks, strict=True
        ):
            row = {
                "image_id": found["image_id"],
                "category_id": data.categories[label].id,
                "bbox": [left, top, right - left, bottom - top],
                "score": score,
            }
            rows.append(row if mask is None else {**row, "segmentation": mask})
    return rows


def coco_dataset(predictions: Sequence[dict[str, Any]], data: CocoData) -> dict[str, Any]:
    """Returns detections as a COCO data set of the pictures of ``data``; annotations are result rows with an id and an area."""
    rows = [
        {
            "id": number,
            **row,
            "area": float(mask_api.area(row["segmentation"]))
            if "segmentation" in row
            else row["bbox"][2] * row["bbox"][3],
            "iscrowd": 0,
        }
        for number, row in enumerate(coco_results(predictions, data), 1)
    ]
    return {
        "images": [asdict(image) for image in data.images],
        "categories": [asdict(category) for category in data.categories],
        "annotations": rows,
    }


def write_results(path: Path, predictions: Sequence[dict[str, Any]], data: CocoData) -> Path:
    """Writes detections as a COCO data set, boxes and masks in each annotation; returns its path.

    ``COCO(path)`` reads it, and ``loadRes`` its annotations. To score masks with pycocotools, take "bbox" and "area" from these
    before, or an object's size is taken from the box.
    """
    write_whole(path, json.dumps(coco_dataset(predictions, data)))
    return path


def read_results(path: Path, data: CocoData) -> list[dict[str, Any]]:
    """Returns the predictions of a data set of detections, or of a list of result rows, as servers take and earlier runs wrote.

    Raises UserError for a file that is none of the pictures of ``data``.
    """
    try:
        content = json.loads(path.read_bytes())
        rows = content["annotations"] if isinstance(content, dict) else content
        labels = {category.id: label for label, category in enumerate(data.categories)}
        images = {image.id: image for image in data.images}
        by_image: dict[int, list[dict[str, Any]]] = {image: [] for image in images}
        masked = any("segmentation" in row for row in rows)
        drawn: dict[int, float] = {}
        for number, row in enumerate(rows):
            left, top, width, height, score = (float(value) for value in [*row["bbox"], row["score"]])
            if not math.isfinite(left + top + width + height + score):
                raise ValueError(f"row {number} has a number that is not finite")
            image = images[row["image_id"]]
            one = {"box": (left, top, left + width, top + height), "score": score, "label": labels[row["category_id"]]}
            if masked:
                outline = read_segmentation(row["segmentation"], image, f"{path}, row {number}", refuse, drawn)
                one["mask"] = to_rle(outline, image.height, image.width)
            by_image[image.id].append(one)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}; expected COCO's result rows.") from None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} doesn't hold detections on {data.annotations} ({type(error).__name__}: {error}); expected COCO's result "
            "rows, of that file's images and categories."
        ) from None
    return [
        {
            "image_id": image,
            "boxes": torch.tensor([row["box"] for row in found], dtype=torch.float64).view(-1, 4),
            "scores": torch.tensor([row["score"] for row in found], dtype=torch.float64),
            "labels": torch.tensor([row["label"] for row in found], dtype=torch.int64),
            # None at all of a detector without masks.
            **({"masks": [row["mask"] for row in found]} if masked else {}),
        }
        for image, found in by_image.items()
    ]


@threads_of("hotcoco")
def evaluate_coco(
    ground_truth: dict[str, Any], rows: Sequence[dict[str, Any]], kind: str, detections: int = COUNTED
) -> Details:
    """Returns COCO's evaluation of result rows; kind: bbox or segm. Neither argument is changed.

    With more than 100 ``detections`` of a class on a picture, so many are counted ``beyond`` the standard numbers.
    """
    evaluation = coco_evaluation(ground_truth, rows, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.run()
    found: Any = evaluation.eval
    details = Details(np.asarray(evaluation.stats, dtype=np.float64), found["precision"][..., -1])
    if detections > COUNTED:
        options = evaluation.params
        options.area_rng, options.area_rng_lbl, options.max_dets = [options.area_rng[0]], ["all"], [detections]
        evaluation.params = options
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        more: Any = evaluation.eval
        precision, recall = more["precision"], more["recall"]
        kept = (precision, precision[_threshold(0.5)], precision[_threshold(0.75)], recall)
        details.beyond = tuple(float(one[one > -1].mean()) if (one > -1).any() else -1.0 for one in kept)
    return details


def coco_evaluation(ground_truth: dict[str, Any], rows: Sequence[dict[str, Any]], kind: str) -> COCOeval:
    """Returns the library's evaluation, not yet run. Ids of pictures and classes in it are places among theirs."""
    # By place: hotcoco takes no negative id, and reads results' ids as float64.
    images = {image["id"]: image for image in ground_truth["images"]}
    places = {number: place for place, number in enumerate(sorted(images))}
    labels = {number: label for label, number in enumerate(sorted(one["id"] for one in ground_truth["categories"]))}
    # A crowd may have no mask.
    whole = [one for one in ground_truth["annotations"] if kind == "bbox" or "segmentation" in one]
    with collector_paused():
        truth = COCO.from_arrays(
            [
                {"id": place, "width": images[number]["width"], "height": images[number]["height"]}
                for number, place in places.items()
            ],
            [{"id": label, "name": str(number)} for number, label in labels.items()],
            np.array([places[one["image_id"]] for one in whole], dtype=np.int64),
            np.array([labels[one["category_id"]] for one in whole], dtype=np.int64),
            np.array([one["bbox"] for one in whole], dtype=np.float64).reshape(-1, 4),
            area=np.array([one["area"] for one in whole], dtype=np.float64),
            iscrowd=np.array([one["iscrowd"] for one in whole], dtype=bool),
            segmentation=[one["segmentation"] for one in whole] if kind == "segm" else None,
        )
        found: Any
        if kind == "bbox":
            found = np.array(
                [(places[row["image_id"]], *row["bbox"], row["score"], labels[row["category_id"]]) for row in rows],
                dtype=np.float64,
            ).reshape(-1, 7)
        else:  # without boxes: there an object's size is that of its mask
            found = [
                {
                    "image_id": places[row["image_id"]],
                    "category_id": labels[row["category_id"]],
                    "score": row["score"],
                    "segmentation": row["segmentation"],
                }
                for row in rows
            ]
        return COCOeval(truth, truth.load_res(found), kind)


def crowded(data: CocoData) -> list[tuple[int, int, int]]:
    """Returns number of the picture, label and objects for each class of more than ``COUNTED`` objects on a picture.

    ``data`` is a whole split as it was read.
    """
    single = ~data.packed.columns["crowd"]
    owners, labels = data.packed.owners()[single], data.packed.columns["label"][single]
    keys, counts = np.unique(owners * len(data.categories) + labels, return_counts=True)
    over = counts > COUNTED
    pictures, classes = np.divmod(keys[over], len(data.categories))
    return list(zip(pictures.tolist(), classes.tolist(), counts[over].tolist(), strict=True))


def _threshold(iou: float) -> int:
    return round((iou - 0.5) / 0.05)


def _mean_known(values: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    known = values > -1
    return np.where(known.any(axes), np.where(known, values, 0).sum(axes) / np.maximum(known.sum(axes), 1), -1.0)
