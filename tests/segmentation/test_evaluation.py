"""Scores against mmseg's IoUMetric and against plain counting."""

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from convmae.segmentation.evaluation import SegmentationMetric, confusion_matrix, scores
from convmae.segmentation.layout import IGNORE

CLASSES = ["a", "b", "c", "d", "e"]


def maps(seed: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction and a truth of four of the five classes, with ignored pixels in the truth."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, classes, (1, 23, 31), generator=generator)
    guess = torch.randint(0, classes, (1, 23, 31), generator=generator)
    prediction = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth, guess)
    truth[torch.rand(truth.shape, generator=generator) < 0.1] = IGNORE
    return prediction, truth


def sample(prediction: torch.Tensor, truth: torch.Tensor, path: str) -> dict:
    return {"pred_sem_seg": {"data": prediction}, "gt_sem_seg": {"data": truth}, "img_path": path}


def evaluate(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[SegmentationMetric, dict[str, float]]:
    metric = SegmentationMetric(CLASSES)
    for number, (prediction, truth) in enumerate(pairs):
        metric.process({}, [sample(prediction, truth, f"{number}.jpg")])
    return metric, metric.evaluate(len(pairs))


def test_confusion_matrix_equals_a_plain_count() -> None:
    prediction, truth = maps(0)
    expected = np.zeros((5, 5), dtype=int)
    for guess, label in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if label != IGNORE:
            expected[label, guess] += 1
    assert np.array_equal(confusion_matrix(prediction, truth, 5).numpy(), expected)


def test_scores_equal_mmseg() -> None:
    pairs = [maps(seed) for seed in range(3)]
    metric, ours = evaluate(pairs)
    theirs = IoUMetric(iou_metrics=["mIoU"], prefix="")
    results = [theirs.intersect_and_union(p.squeeze(), t.squeeze(), 5, IGNORE) for p, t in pairs]
    areas = [sum(parts) for parts in zip(*results, strict=True)]
    expected = theirs.total_area_to_metrics(*areas)
    assert metric.details is not None
    np.testing.assert_allclose(metric.details.iou, expected["IoU"], rtol=1e-6)
    np.testing.assert_allclose(metric.details.accuracy, expected["Acc"], rtol=1e-6)
    for name, value in (
        ("mIoU", np.nanmean(expected["IoU"])),
        ("mAcc", np.nanmean(expected["Acc"])),
        ("aAcc", expected["aAcc"]),
    ):
        assert ours[name] == pytest.approx(float(value), rel=1e-6)


def test_scores_of_a_matrix_worked_by_hand() -> None:
    # truth 0: 3 right, 1 taken for 1; truth 1: 2 right; class 2 nowhere
    values, iou, accuracy = scores(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert iou[:2].tolist() == pytest.approx([3 / 4, 2 / 3])
    assert accuracy[:2].tolist() == pytest.approx([3 / 4, 1])
    assert np.isnan(iou[2])
    assert values == pytest.approx({"mIoU": (3 / 4 + 2 / 3) / 2, "mAcc": 7 / 8, "aAcc": 5 / 6})


def test_pictures_and_repeated_use() -> None:
    prediction, truth = maps(1)
    metric, first = evaluate([(truth.clamp(max=4), truth), (prediction, truth)])
    assert metric.details is not None
    assert metric.details.pictures["0.jpg"] == 1
    assert 0.4 < metric.details.pictures["1.jpg"] < 0.9
    metric.process({}, [sample(prediction, truth, "2.jpg")])
    assert metric.evaluate(1) == evaluate([(prediction, truth)])[1] != first


def test_padded_repeats_of_the_sampler_count_once() -> None:
    metric = SegmentationMetric(CLASSES)
    pairs = [maps(seed) for seed in range(3)]
    for prediction, truth in [*pairs, pairs[0]]:
        metric.process({}, [sample(prediction, truth, "x.jpg")])
    assert metric.evaluate(3) == evaluate(pairs)[1]


def test_all_ignored_gives_zero_not_nan() -> None:
    _, values = evaluate([(torch.zeros(1, 4, 4, dtype=torch.int64), torch.full((1, 4, 4), IGNORE))])
    assert values == {"mIoU": 0, "mAcc": 0, "aAcc": 0}


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        confusion_matrix(torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 5, dtype=torch.int64), 2)
