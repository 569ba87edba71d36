"""Scores on resampled pictures are those of a split that holds each picture as often as it was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convmae.reports.intervals import RESAMPLES, resamples
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.evaluation.resampled_scores import counts_by_picture, resampled_scores, scores_of_draws
from convmae.segmentation.evaluation.scores import Result, SegmentationMetric, total_scores

CLASSES = ["sky", "road", "car", "tree", "never"]


def results(pictures: int, seed: int = 0) -> list[Result]:
    """Random pictures of blocks, most with some of the classes alone, one that is not labelled at all."""
    generator = torch.Generator().manual_seed(seed)
    metric = SegmentationMetric(CLASSES)
    for number in range(pictures):
        present = torch.randperm(4, generator=generator)[: 1 + number % 3]
        truth = present[torch.randint(0, len(present), (5, 6), generator=generator)].repeat_interleave(4, 0)
        guess = torch.randint(0, 4, truth.shape, generator=generator)
        prediction = torch.where(torch.rand(truth.shape, generator=generator) < 0.7, truth, guess)
        truth[torch.rand(truth.shape, generator=generator) < (1.1 if number == 1 else 0.1)] = IGNORE
        found = {"pred_sem_seg": {"data": prediction[None]}, "gt_sem_seg": {"data": truth[None]}}
        metric.process({}, [{**found, "img_path": str(number)}])
    metric.evaluate(pictures)
    return metric.pictures


def test_scores_of_drawn_pictures_are_those_of_a_split_of_them() -> None:
    found = results(7)
    drawn = np.random.default_rng(0).integers(0, 3, (7, 30))
    drawn[:, 0], drawn[:, 1] = 1, np.arange(7) == 0
    scores = scores_of_draws(counts_by_picture(found, len(CLASSES)), drawn.astype(np.float32))
    for column, counts in enumerate(drawn.T.tolist()):
        repeated = [one for one, count in zip(found, counts, strict=True) for _ in range(count)]
        expected = total_scores(CLASSES, repeated).numbers()
        got = {
            name: np.nan_to_num(values[column]) for name, values in scores.items()
        }  # the whole's mean of nothing is 0
        assert got == pytest.approx(expected, abs=1e-12)


def test_resampled_scores_are_those_of_the_common_draws_in_their_order() -> None:
    found = results(5)
    scores = resampled_scores(found, len(CLASSES))
    assert {name: values.shape for name, values in scores.items()} == dict.fromkeys(
        ("mIoU", "mAcc", "aAcc", "mFscore", "mBoundaryF"), (RESAMPLES,)
    )
    for column, counts in enumerate(next(resamples(5)).astype(int).T[:10].tolist()):
        repeated = [one for one, count in zip(found, counts, strict=True) for _ in range(count)]
        assert scores["mIoU"][column] == pytest.approx(total_scores(CLASSES, repeated).numbers()["mIoU"])
    assert scores["mIoU"].std() > 0


def test_pictures_without_a_label_have_no_score() -> None:
    unlabelled = results(2)[1:]
    assert all(np.isnan(values).all() for values in resampled_scores(unlabelled, len(CLASSES)).values())
