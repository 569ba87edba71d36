"""Accuracies on resampled pictures are those of a split that holds each picture as often as it was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convmae.classification.evaluation.accuracy import Prediction, accuracy_of_draws, judged, score
from convmae.reports.intervals import RESAMPLES, interval, resamples

CLASSES = [str(number) for number in range(8)]


def predictions(pictures: int, seed: int = 0) -> list[Prediction]:
    """Random predictions, right more often than chance; of the last class there is no picture."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(CLASSES) - 1, (pictures,), generator=generator)
    scores = torch.randn(pictures, len(CLASSES), generator=generator) + 1.5 * torch.eye(len(CLASSES))[labels]
    return Prediction.of(scores, labels, torch.arange(pictures))


def test_accuracies_of_drawn_pictures_are_those_of_a_split_of_them() -> None:
    found = predictions(23)
    drawn = np.random.default_rng(0).integers(0, 3, (23, 40))
    drawn[:, 0] = 1
    values = accuracy_of_draws(*judged(found), drawn.astype(np.float32))
    for column, counts in enumerate(drawn.T.tolist()):
        repeated = [one for one, count in zip(found, counts, strict=True) for _ in range(count)]
        expected, _ = score(repeated, CLASSES)
        assert {name: value[column] for name, value in values.items()} == pytest.approx(expected, abs=1e-6)
        right = [one.top[0] == one.label for one in repeated]
        assert values["top1"][column] == pytest.approx(np.mean(right), abs=1e-6)
        of_class: dict[int, list[bool]] = {}
        for one, good in zip(repeated, right, strict=True):
            of_class.setdefault(one.label, []).append(good)
        mean = np.mean([np.mean(good) for good in of_class.values()])
        assert values["class_mean"][column] == pytest.approx(mean, abs=1e-6)


def test_resampled_accuracies_are_those_of_the_common_draws() -> None:
    numbers, details = score(predictions(200), CLASSES)
    drawn = details.resampled
    assert {name: values.shape for name, values in drawn.items()} == dict.fromkeys(numbers, (RESAMPLES,))
    right = np.array([one.label == one.top[0] for one in details.predictions])
    plain = np.concatenate([right @ block / 200 for block in resamples(200)])
    assert drawn["top1"] == pytest.approx(plain, abs=1e-6)
    # Of a share of independent pictures the standard error is known.
    found = interval(numbers["top1"], drawn["top1"])
    error = (numbers["top1"] * (1 - numbers["top1"]) / 200) ** 0.5
    assert found is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.08)
