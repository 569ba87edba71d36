"""Top-1 and top-5 accuracy, per-class accuracy and the confusion matrix, from one prediction a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convmae.engine.training.metric import PictureMetric


class Prediction(NamedTuple):
    """A picture's place in its split, its label, the five best classes (fewer where there are fewer), and the best's score."""

    picture: int
    label: int
    top: list[int]
    score: float

    @classmethod
    def of(cls, scores: Tensor, labels: Tensor, pictures: Tensor) -> list[Prediction]:
        """Returns the predictions of a batch. scores: [B, classes], of which the highest wins; labels, pictures: [B]."""
        best, classes = torch.topk(scores, min(5, scores.shape[1]))
        rows = (pictures.tolist(), labels.tolist(), classes.tolist(), best[:, 0].tolist())
        return [cls(*row) for row in zip(*rows, strict=True)]


@dataclass
class Details:
    """What a report shows beside the headline. Rows of ``confusion`` are the truth, columns the prediction, in pictures."""

    classes: list[str]
    confusion: NDArray[np.int64]
    accuracy: NDArray[np.float64]  # of each class; nan without pictures
    predictions: list[Prediction]


def score(predictions: Sequence[Prediction], classes: list[str]) -> tuple[dict[str, float], Details]:
    """Returns ``top1``, ``top5`` and ``class_mean`` (0..1), and the details."""
    labels = np.array([found.label for found in predictions], dtype=np.int64)
    first = np.array([found.top[0] for found in predictions], dtype=np.int64)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, first), 1)
    totals = confusion.sum(axis=1)
    accuracy = np.divide(np.diag(confusion), totals, out=np.full(len(classes), np.nan), where=totals > 0)
    numbers = {
        "top1": float((first == labels).mean()),
        "top5": float(np.mean([found.label in found.top for found in predictions])),
        "class_mean": float(np.nanmean(accuracy)),
    }
    return numbers, Details(classes, confusion, accuracy, list(predictions))


class ClassificationMetric(PictureMetric):
    """top1, top5 and the mean accuracy over classes; ``details`` holds the rest, on the first process."""

    def __init__(self, classes: list[str]) -> None:
        super().__init__()
        self.classes = classes
        self.details: Details | None = None

    def measure(self, sample: Any) -> Prediction:
        return Prediction(**sample)

    def compute_metrics(self, results: list[Prediction]) -> dict[str, float]:
        numbers, self.details = score(results, self.classes)
        return numbers
