"""Intersection over union and accuracies from one confusion matrix, counted picture by picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from convmae.engine.metric import PictureMetric
from convmae.segmentation.layout import IGNORE


class PictureCounts(NamedTuple):
    """The filled cells of one picture's confusion matrix: few, so that thousands of pictures are gathered cheaply."""

    path: str
    cells: np.ndarray  # int64 [K], truth * num_classes + prediction
    counts: np.ndarray  # int64 [K], pixels


@dataclass
class Details:
    """What a report shows beside the headline. Rows of ``confusion`` are the truth, columns the prediction, in pixels."""

    classes: list[str]
    confusion: np.ndarray  # int64 [N, N]
    iou: np.ndarray  # float64 [N], nan where a class occurs neither in truth nor prediction
    accuracy: np.ndarray  # float64 [N], nan where a class does not occur in the truth
    pictures: dict[str, float]  # path -> part of its labelled pixels that are right


def confusion_matrix(
    prediction: torch.Tensor, truth: torch.Tensor, num_classes: int, ignore: int = IGNORE
) -> torch.Tensor:
    """Returns int64 [N, N] pixel counts, truth by prediction, of two integer maps of one shape; ``ignore`` is left out."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {tuple(prediction.shape)}, expected {tuple(truth.shape)} as the truth")
    kept = truth != ignore
    cells = truth[kept].to(torch.int64) * num_classes + prediction[kept]
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(confusion: np.ndarray) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Returns mIoU, mAcc and aAcc (0..1), and IoU and accuracy of each class, from an [N, N] matrix of truth by prediction.

    As in mmseg, a class that occurs in neither truth nor prediction is nan and left out of the mean IoU, and one absent
    from the truth is left out of the mean accuracy.
    """
    right = np.diag(confusion).astype(np.float64)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    iou, accuracy = _ratio(right, truth + predicted - right), _ratio(right, truth)
    return (
        {"mIoU": _mean(iou), "mAcc": _mean(accuracy), "aAcc": float(right.sum() / max(truth.sum(), 1))},
        iou,
        accuracy,
    )


class SegmentationMetric(PictureMetric):
    """mIoU, mAcc and aAcc of a set; ``details`` holds the rest after each evaluation, on the first process."""

    def __init__(self, classes: list[str]) -> None:
        super().__init__()
        self.classes = classes
        self.details: Details | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            prediction = sample["pred_sem_seg"]["data"]
            truth = sample["gt_sem_seg"]["data"].to(prediction.device)
            counts = confusion_matrix(prediction, truth, len(self.classes)).flatten()
            cells = counts.nonzero().squeeze(1)
            path = sample.get("img_path", str(len(self.results)))
            self.results.append(PictureCounts(path, cells.cpu().numpy(), counts[cells].cpu().numpy()))

    def compute_metrics(self, results: list[PictureCounts]) -> dict[str, float]:
        number = len(self.classes)
        total = np.zeros(number * number, dtype=np.int64)
        pictures = {}
        for path, cells, counts in results:
            total[cells] += counts
            on_diagonal = cells // number == cells % number
            pictures[path] = float(counts[on_diagonal].sum() / max(counts.sum(), 1))
        confusion = total.reshape(number, number)
        metrics, iou, accuracy = scores(confusion)
        self.details = Details(self.classes, confusion, iou, accuracy, pictures)
        return metrics


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else 0.0
