"""Scores of label maps on pictures drawn anew from a split, from counts that are made once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convmae.reports.intervals import resamples
from convmae.segmentation.evaluation.scores import ClassCounts, Result


def resampled_scores(results: Sequence[Result], num_classes: int) -> dict[str, NDArray[np.float64]]:
    """Returns mIoU, mAcc, aAcc, mFscore and mBoundaryF (0..1) on each resample of the pictures; nan where there is none."""
    parts = counts_by_picture(results, num_classes)
    values = [scores_of_draws(parts, drawn) for drawn in resamples(len(results))]
    return {name: np.concatenate([one[name] for one in values]) for name in values[0]}


def scores_of_draws(parts: ClassCounts, drawn: NDArray) -> dict[str, NDArray[np.float64]]:
    """Returns the scores [B] of sets in which each of P pictures stands as often as drawn: [P, B]. parts: of [N, P] each."""
    counts = ClassCounts(*(part @ drawn for part in parts))
    iou, accuracy, fscore, boundary = map(_mean, counts.scores())
    right, labelled = counts.right.sum(axis=0), counts.truth.sum(axis=0)
    all_pixels = np.divide(right, labelled, out=np.full(len(right), np.nan), where=labelled > 0)
    return {"mIoU": iou, "mAcc": accuracy, "aAcc": all_pixels, "mFscore": fscore, "mBoundaryF": boundary}


def counts_by_picture(results: Sequence[Result], num_classes: int) -> ClassCounts:
    """Returns the counts [N, P] of each class in each of P pictures, as numbers of floating point."""
    pictures = len(results)

    def table(labels: NDArray, lengths: Sequence[int], values: NDArray | None = None) -> NDArray[np.float64]:
        places = labels.astype(np.int64) * pictures + np.repeat(np.arange(pictures), lengths)
        found = np.bincount(places, values, num_classes * pictures)
        return found.astype(np.float64).reshape(num_classes, pictures)

    cells = np.concatenate([result.cells for result in results])
    pixels = np.concatenate([result.counts for result in results])
    truth, predicted = np.divmod(cells, num_classes)
    lengths = [len(result.cells) for result in results]
    outlines = [result.boundary for result in results]
    labels = np.concatenate([outline.labels for outline in outlines])
    bounded = [len(outline.labels) for outline in outlines]
    return ClassCounts(
        table(truth, lengths, np.where(truth == predicted, pixels, 0)),
        table(truth, lengths, pixels),
        table(predicted, lengths, pixels),
        table(labels, bounded, np.concatenate([outline.scores for outline in outlines])),
        table(labels, bounded),
    )


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean [B] of values [N, B] over the classes that have one."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
