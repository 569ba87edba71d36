"""Scores of label maps: from one confusion matrix, counted picture by picture, and from the boundaries in each picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from convmae.engine.training.metric import PictureMetric
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.evaluation.boundary import BoundaryScores, boundary_scores

_EXACT = 2**24  # the largest count up to which float32, in which OpenCV counts, holds every integer


class Result(NamedTuple):
    """What is kept of a picture: little, so that thousands of pictures are gathered and written cheaply."""

    path: str
    cells: NDArray[np.int32]  # [K], the filled cells of its confusion matrix: truth * num_classes + prediction
    counts: NDArray[np.int32]  # [K], pixels
    boundary: BoundaryScores
    label_map: bytes  # the prediction as PNG: a class index a pixel

    def truth(self, num_classes: int) -> NDArray[np.int64]:
        """Returns the true pixels of each class."""
        return np.bincount(self.cells // num_classes, self.counts, minlength=num_classes).astype(np.int64)

    def accuracy(self, num_classes: int) -> float:
        """Returns the share of its labelled pixels that are right; 1 where none is labelled."""
        right = self.cells // num_classes == self.cells % num_classes
        return float(self.counts[right].sum() / self.counts.sum()) if len(self.counts) else 1.0


class ClassCounts(NamedTuple):
    """What the scores of classes are made of, each [N] or [N, B]: pixels, and boundary F-scores added over pictures."""

    right: NDArray
    truth: NDArray
    predicted: NDArray
    boundary: NDArray
    bounded: NDArray  # pictures whose truth has a boundary of the class

    def scores(self) -> tuple[NDArray[np.float64], ...]:
        """Returns IoU, accuracy, F-score and boundary F-score, nan where there is nothing to measure."""
        return (
            _ratio(self.right, self.truth + self.predicted - self.right),
            _ratio(self.right, self.truth),
            _ratio(2 * self.right, self.truth + self.predicted),
            _ratio(self.boundary, self.bounded),
        )


@dataclass
class Details:
    """What a report shows beside the headline. Rows of ``confusion`` are the truth, columns the prediction, in pixels.

    By class [N], nan where there is nothing to measure: ``iou`` and ``fscore`` of a class in neither truth nor prediction,
    ``accuracy`` of one not in the truth, ``boundary`` of one without a boundary in the truth of any picture.
    """

    classes: list[str]
    confusion: NDArray[np.int64]
    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    fscore: NDArray[np.float64]
    boundary: NDArray[np.float64]

    def numbers(self) -> dict[str, float]:
        """Returns the headline, 0..1: means over the classes that have a number, and the share of all pixels that are right."""
        return {
            "mIoU": _mean(self.iou),
            "mAcc": _mean(self.accuracy),
            "aAcc": float(np.diag(self.confusion).sum() / max(self.confusion.sum(), 1)),
            "mFscore": _mean(self.fscore),
            "mBoundaryF": _mean(self.boundary),
        }


def confusion_matrix(prediction: torch.Tensor, truth: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Returns int64 [N, N] pixel counts, truth by prediction, of two integer maps of one shape, labels up to 255.

    Pixels that the truth gives no class 0..N - 1 are left out. The maps may lie on any device; the counts lie on the CPU.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {tuple(prediction.shape)}, expected {tuple(truth.shape)} as the truth")
    return torch.from_numpy(_count(_to_bytes(prediction), _to_bytes(truth), num_classes))


def scores(classes: list[str], confusion: NDArray[np.int64], boundaries: Sequence[BoundaryScores] = ()) -> Details:
    """Returns the scores of each class from an [N, N] matrix of truth by prediction and the boundaries of each picture.

    IoU and accuracy are mmseg's; the F-score is Dice, 0 for a class that is never predicted (mmseg's F-score leaves it out of
    the mean). The boundary F-score of a class is its mean over the pictures whose truth has a boundary of it.
    """
    number = len(classes)
    labels = np.concatenate([np.zeros(0, np.int64), *(one.labels for one in boundaries)]).astype(np.int64)
    boundary = np.concatenate([np.zeros(0), *(one.scores for one in boundaries)])
    counts = ClassCounts(
        np.diag(confusion),
        confusion.sum(axis=1),
        confusion.sum(axis=0),
        np.bincount(labels, boundary, number),
        np.bincount(labels, minlength=number),
    )
    return Details(classes, confusion, *counts.scores())


def total_scores(classes: list[str], results: Sequence[Result]) -> Details:
    """Returns the scores of a set of pictures."""
    number = len(classes)
    total = np.zeros(number * number, dtype=np.int64)
    for result in results:
        total[result.cells] += result.counts
    return scores(classes, total.reshape(number, number), [result.boundary for result in results])


class SegmentationMetric(PictureMetric):
    """mIoU, mAcc, aAcc, mFscore and mBoundaryF; ``details`` and ``pictures`` hold the rest, on the first process."""

    def __init__(self, classes: list[str]) -> None:
        super().__init__()
        self.classes = classes
        self.details: Details | None = None
        self.pictures: list[Result] = []

    def measure(self, sample: Any) -> Result:
        prediction, truth = (_to_bytes(sample[name]["data"][0]) for name in ("pred_sem_seg", "gt_sem_seg"))
        counts = _count(prediction, truth, len(self.classes)).ravel()
        cells = np.flatnonzero(counts)
        return Result(
            sample["img_path"],
            cells.astype(np.int32),
            counts[cells].astype(np.int32),
            boundary_scores(prediction, truth),
            cv2.imencode(".png", prediction, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes(),
        )

    def compute_metrics(self, results: list[Result]) -> dict[str, float]:
        self.pictures, self.details = results, total_scores(self.classes, results)
        return self.details.numbers()


def _to_bytes(labels: torch.Tensor) -> NDArray[np.uint8]:
    """Returns labels as bytes on the CPU: an eighth of what would else be read again and, from a GPU, moved."""
    return labels.to(torch.uint8).contiguous().cpu().numpy()


def _count(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Returns the confusion matrix [N, N] of two maps in one pass over their bytes, without a map of cells."""
    if not 0 < num_classes <= IGNORE:
        raise ValueError(f"{num_classes} classes don't fit in bytes; expected 1 to {IGNORE}")
    total = np.zeros((num_classes, num_classes), np.int64)
    flat = truth.reshape(1, -1), prediction.reshape(1, -1)
    for start in range(0, truth.size, _EXACT):
        parts = [labels[:, start : start + _EXACT] for labels in flat]
        # Labels out of the ranges, such as IGNORE, are passed over.
        counts = cv2.calcHist(parts, [0, 1], None, [num_classes] * 2, [0, num_classes] * 2)
        total += counts.astype(np.int64)
    return total


def _ratio(part: NDArray, whole: NDArray) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else 0.0
