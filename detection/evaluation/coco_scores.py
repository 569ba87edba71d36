"""COCO's evaluation of detections by hotcoco, without what a training run needs: a data check scores by it, too."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from convmae.detection.data.coco import CocoData
from convmae.engine.machine.forks import threads_of
from convmae.engine.machine.garbage import collector_paused

STANDARD = (
    "mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
COUNTED = 100  # detections of a class on a picture that the numbers are of
BEYOND = ("mAP", "AP50", "AP75", "AR")  # what is told of a larger number of detections, too
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
