"""Scores against mmseg's IoUMetric and against plain counting, pixel by pixel."""

import io
import math
import pickle

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric
from PIL import Image

from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.evaluation import scores as scoring
from convmae.segmentation.evaluation.boundary import boundary_scores
from convmae.segmentation.evaluation.scores import SegmentationMetric, confusion_matrix, scores

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


def count(prediction: torch.Tensor, truth: torch.Tensor, classes: int) -> np.ndarray:
    expected = np.zeros((classes, classes), dtype=int)
    for guess, label in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if label != IGNORE:
            expected[label, guess] += 1
    return expected


def on_boundary(labels: np.ndarray, truth: np.ndarray) -> dict[int, list[tuple[int, int]]]:
    """The boundary pixels of each class, by looking at the four neighbours of every pixel that the truth labels."""
    height, width = labels.shape
    found: dict[int, list[tuple[int, int]]] = {}
    for row in range(height):
        for column in range(width):
            if truth[row, column] == IGNORE:
                continue
            for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= r < height and 0 <= c < width and truth[r, c] != IGNORE
                if inside and labels[r, c] != labels[row, column]:
                    found.setdefault(int(labels[row, column]), []).append((row, column))
                    break
    return found


def plain_boundary_scores(prediction: np.ndarray, truth: np.ndarray, tolerance: float) -> dict[int, float]:
    reach = tolerance * math.hypot(*truth.shape)
    guessed, true = on_boundary(prediction, truth), on_boundary(truth, truth)

    def near(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        return sum(any(math.dist(point, other) <= reach for other in others) for point in points) / len(points)

    found = {}
    for label, outline in true.items():
        recall = near(outline, guessed.get(label, []))
        precision = near(guessed[label], outline) if label in guessed else 0.0
        found[label] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return found


@pytest.mark.parametrize("shape", [(1, 23, 31), (1, 1), (1, 40), (40, 1)])
def test_confusion_matrix_equals_a_plain_count(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_EXACT", 100)  # so that several parts are added up
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 5, shape, generator=generator)
    truth = torch.randint(0, 5, shape, generator=generator)
    truth[torch.rand(shape, generator=generator) < 0.2] = IGNORE
    assert np.array_equal(confusion_matrix(prediction, truth, 5).numpy(), count(prediction, truth, 5))


def test_counts_are_exact_where_float32_is_not() -> None:
    pixels = 2**24 + 3
    truth = torch.zeros(1, pixels, dtype=torch.uint8)
    assert confusion_matrix(truth, truth, 2).tolist() == [[pixels, 0], [0, 0]]


def test_as_many_classes_as_bytes_hold() -> None:
    labels = torch.arange(256).view(16, 16)
    assert torch.equal(confusion_matrix(labels, labels, 255), torch.eye(255, dtype=torch.int64))
    with pytest.raises(ValueError, match="256 classes"):
        confusion_matrix(labels, labels, 256)


def test_scores_equal_mmseg() -> None:
    pairs = [maps(seed) for seed in range(3)]
    metric, ours = evaluate(pairs)
    theirs = IoUMetric(iou_metrics=["mIoU", "mFscore"], prefix="")
    results = [theirs.intersect_and_union(p.squeeze(), t.squeeze(), 5, IGNORE) for p, t in pairs]
    areas = [sum(parts) for parts in zip(*results, strict=True)]
    expected = theirs.total_area_to_metrics(*areas, metrics=["mIoU", "mFscore"])
    details = metric.details
    assert details is not None
    for found, name in ((details.iou, "IoU"), (details.accuracy, "Acc"), (details.fscore, "Fscore")):
        np.testing.assert_allclose(found, expected[name], rtol=1e-6)
        assert ours[f"m{name}"] == pytest.approx(float(np.nanmean(expected[name])), rel=1e-6)
    assert ours["aAcc"] == pytest.approx(float(expected["aAcc"]), rel=1e-6)


def test_scores_of_a_matrix_worked_by_hand() -> None:
    # truth 0: 3 right, 1 taken for 1; truth 1: 2 right; class 2 nowhere; truth 3: 4 taken for 0, so never predicted
    details = scores(list("abcd"), np.array([[3, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0]]))
    for found, expected in (
        (details.iou, [3 / 8, 2 / 3, np.nan, 0]),
        (details.accuracy, [3 / 4, 1, np.nan, 0]),
        (details.fscore, [6 / 11, 4 / 5, np.nan, 0]),
        (details.boundary, [np.nan] * 4),
    ):
        np.testing.assert_allclose(found, expected)
    assert details.numbers() == pytest.approx(
        {
            "mIoU": (3 / 8 + 2 / 3) / 3,
            "mAcc": (3 / 4 + 1) / 3,
            "aAcc": 5 / 10,
            "mFscore": (6 / 11 + 4 / 5) / 3,
            "mBoundaryF": 0,
        }
    )


@pytest.mark.parametrize("tolerance", [0.0075, 0.05, 0.12])
@pytest.mark.parametrize("seed", [0, 1])
def test_boundary_scores_equal_plain_counting(tolerance: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, (5, 6)).repeat(6, 0).repeat(5, 1).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.9, np.roll(truth, 2, 1), rng.integers(0, 5, truth.shape))
    truth[rng.random(truth.shape) < 0.05] = IGNORE
    truth[:4, :9] = IGNORE
    labels, found = boundary_scores(prediction.astype(np.uint8), truth, tolerance)
    expected = plain_boundary_scores(prediction, truth, tolerance)
    assert len(set(expected.values())) > 2
    assert dict(zip(labels.tolist(), found.tolist(), strict=True)) == pytest.approx(expected)


def test_boundaries_near_enough_are_right_and_others_are_not() -> None:
    truth, near, far = (np.zeros((60, 80), np.uint8) for _ in range(3))  # a diagonal of 100 pixels
    truth[:, 40:], near[:, 43:], far[:, 44:] = 1, 1, 1
    for prediction, expected in ((truth, 1.0), (near, 1.0), (far, 0.0), (np.zeros_like(truth), 0.0)):
        assert boundary_scores(prediction, truth, 0.03).scores.tolist() == [expected] * 2
    filled = boundary_scores(truth, np.zeros_like(truth))
    assert filled.labels.tolist() == filled.scores.tolist() == []  # the truth has no boundary
    ignored = truth.copy()
    ignored[:, 40:] = IGNORE
    assert boundary_scores(truth, ignored).labels.tolist() == []  # where labels end, no class does


def test_the_mean_over_pictures_is_of_those_that_have_a_boundary_of_the_class() -> None:
    truth = torch.zeros(1, 60, 80, dtype=torch.int64)
    truth[..., 40:] = 1
    other = torch.where(truth == 1, 2, truth)
    metric, numbers = evaluate([(truth, truth), (other.roll(9), other), (truth * 0, truth * 0), (truth, truth * 0)])
    assert metric.details is not None
    np.testing.assert_allclose(metric.details.boundary, [0.5, 1, 0, np.nan, np.nan])
    assert numbers["mBoundaryF"] == 0.5


def test_pictures_and_repeated_use() -> None:
    prediction, truth = maps(1)
    metric, first = evaluate([(truth.clamp(max=4), truth), (prediction, truth)])
    assert metric.pictures[0].accuracy(5) == 1
    assert 0.4 < metric.pictures[1].accuracy(5) < 0.9
    assert metric.pictures[1].truth(5).tolist() == count(prediction, truth, 5).sum(axis=1).tolist()
    kept = np.array(Image.open(io.BytesIO(metric.pictures[1].label_map)))
    assert np.array_equal(kept, prediction[0].numpy())
    metric.process({}, [sample(prediction, truth, "2.jpg")])
    assert metric.evaluate(1) == evaluate([(prediction, truth)])[1] != first


def test_padded_repeats_of_the_sampler_count_once() -> None:
    metric = SegmentationMetric(CLASSES)
    pairs = [maps(seed) for seed in range(3)]
    for prediction, truth in [*pairs, pairs[0]]:
        metric.process({}, [sample(prediction, truth, "x.jpg")])
    assert metric.evaluate(3) == evaluate(pairs)[1]


def test_what_is_gathered_of_a_picture_is_small() -> None:
    truth = torch.arange(150).view(1, 10, 15).repeat_interleave(60, 1).repeat_interleave(60, 2)
    metric = SegmentationMetric([str(number) for number in range(150)])
    metric.process({}, [sample(truth.roll(7, 2), truth, "1.jpg")])
    assert len(pickle.dumps(metric.results)) < 20_000  # of 540,000 pixels and 22,500 cells


def test_all_ignored_gives_zero_not_nan() -> None:
    _, values = evaluate([(torch.zeros(1, 4, 4, dtype=torch.int64), torch.full((1, 4, 4), IGNORE))])
    assert values == {"mIoU": 0, "mAcc": 0, "aAcc": 0, "mFscore": 0, "mBoundaryF": 0}


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        confusion_matrix(torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 5, dtype=torch.int64), 2)
