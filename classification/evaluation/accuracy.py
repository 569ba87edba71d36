"""Top-1 and top-5 accuracy, per-class accuracy and the confusion matrix, from one prediction a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convmae.engine.training.metric import PictureMetric
from convmae.reports.intervals import resamples


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

    @cached_property
    def resampled(self) -> dict[str, NDArray[np.floating]]:
        """top1, top5 and class_mean (0..1) on each resample of the pictures."""
        labels, first, among = judged(self.predictions)
        values = [accuracy_of_draws(labels, first, among, drawn) for drawn in resamples(len(labels))]
        return {name: np.concatenate([one[name] for one in values]) for name in values[0]}


def accuracy_of_draws(
    labels: NDArray[np.int64], first: NDArray[np.bool_], among: NDArray[np.bool_], drawn: NDArray[np.float32]
) -> dict[str, NDArray[np.floating]]:
    """Returns top1, top5 and class_mean [B] of sets in which each of P pictures stands as often as drawn: [P, B].

    labels [P]; first, among [P]: whether the label is the best class, one of the five best.
    """
    pictures = drawn.sum(axis=0)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    of_class = np.add.reduceat(drawn[order], starts)  # [classes that there are, B]
    right = np.add.reduceat(drawn[order] * first[order, None], starts)
    accuracy = np.divide(right, of_class, out=np.zeros_like(right), where=of_class > 0)
    return {
        "top1": first.astype(np.float32) @ drawn / pictures,
        "top5": among.astype(np.float32) @ drawn / pictures,
        "class_mean": accuracy.sum(axis=0) / (of_class > 0).sum(axis=0),
    }


def judged(predictions: Sequence[Prediction]) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns the label [P] of each prediction, and whether it is the best class, and one of the five best."""
    labels = np.array([found.label for found in predictions], dtype=np.int64)
    first = np.array([found.top[0] for found in predictions], dtype=np.int64) == labels
    return labels, first, np.array([found.label in found.top for found in predictions], dtype=bool)


def score(predictions: Sequence[Prediction], classes: list[str]) -> tuple[dict[str, float], Details]:
    """Returns ``top1``, ``top5`` and ``class_mean`` (0..1), and the details."""
    labels, right, among = judged(predictions)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, np.array([found.top[0] for found in predictions], dtype=np.int64)), 1)
    totals = confusion.sum(axis=1)
    accuracy = np.divide(np.diag(confusion), totals, out=np.full(len(classes), np.nan), where=totals > 0)
    numbers = {
        "top1": float(right.mean()),
        "top5": float(among.mean()),
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
