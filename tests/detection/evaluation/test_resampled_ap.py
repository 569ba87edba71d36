"""AP on resampled pictures is pycocotools' on a split that holds each picture as often as it was drawn."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
from coco_cases import CASES, Case
from hypothesis import Phase, assume, given, settings

from convmae.detection.evaluation.coco_metric import coco_results
from convmae.detection.evaluation.coco_scores import evaluate_coco
from convmae.detection.evaluation.resampled_ap import ClassMatches, match_classes, resampled_ap
from convmae.reports.intervals import RESAMPLES, interval, resamples


def drawn_split(
    truth: dict[str, Any], rows: list[dict[str, Any]], counts: list[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the split and the rows in which each picture stands as often as counted, under ids of its own."""
    images = sorted(truth["images"], key=lambda image: image["id"])
    copies = [image for image, count in zip(images, counts, strict=True) for _ in range(count)]
    again: list[list[dict[str, Any]]] = [[], []]
    for kept, given_ in zip(again, (truth["annotations"], rows), strict=True):
        for number, image in enumerate(copies, 1):
            kept += [{**one, "image_id": number} for one in given_ if one["image_id"] == image["id"]]
    renamed = [{**image, "id": number} for number, image in enumerate(copies, 1)]
    return {**truth, "images": renamed, "annotations": again[0]}, again[1]


@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(CASES)
def test_ap_of_drawn_pictures_is_that_of_a_split_of_them(case: Case) -> None:
    data, predictions = case.make()
    rows, truth = coco_results(predictions, data), data.ground_truth()
    rng = np.random.default_rng(case.seed)
    for row, score in zip(rows, rng.permutation(len(rows)).tolist(), strict=True):
        row["score"] = (
            score  # of equal scores in a picture drawn twice, which comes first is a matter of its copies' order
        )
    assume(rows)
    drawn = rng.integers(0, 4, (len(data.images), 3))
    drawn[:, 0] = 1
    assume(drawn.sum(axis=0).all())
    for kind in ("bbox", "segm"):
        found = np.stack([one.ap(drawn.astype(np.float32)) for one in match_classes(truth, rows, kind)])
        for column, counts in enumerate(drawn.T.tolist()):
            split, repeated = drawn_split(truth, rows, counts)
            details = evaluate_coco(split, repeated, kind)
            whole = details.precision[..., 0].mean(axis=1)  # [thresholds, classes]
            expected = whole[:, (whole > -1).all(axis=0)].mean(axis=1) if (whole > -1).any() else np.full(10, np.nan)
            at = found[:, column][~np.isnan(found[:, column]).any(axis=1)]
            got = at.mean(axis=0) if len(at) else np.full(10, np.nan)
            np.testing.assert_allclose(got, expected, atol=1e-6)


def test_resampled_scores_are_those_of_each_draw_by_itself() -> None:
    data, predictions = Case(5, 4, 3, 6, 10, 0.3, 1000, 3).make()
    rows, truth = coco_results(predictions, data), data.ground_truth()
    scores = resampled_ap(truth, rows, "bbox")
    assert {name: values.shape for name, values in scores.items()} == dict.fromkeys(
        ("bbox_mAP", "bbox_AP50", "bbox_AP75"), (RESAMPLES,)
    )
    first = next(resamples(4)).astype(int)
    for column in range(20):
        split, repeated = drawn_split(truth, rows, first[:, column].tolist())
        expected = evaluate_coco(split, repeated, "bbox").stats[:3]
        got = [scores[name][column] for name in ("bbox_mAP", "bbox_AP50", "bbox_AP75")]
        assert np.nan_to_num(got, nan=-1) == pytest.approx(expected, abs=1e-6)


def test_nothing_found_is_zero_and_nothing_to_find_is_unknown() -> None:
    data, _ = Case(5, 3, 2, 6, 1, 0, 1, 0).make()
    found = resampled_ap(data.ground_truth(), [], "bbox")["bbox_mAP"]
    assert set(found[~np.isnan(found)]) == {0.0}
    data.objects.clear()
    assert np.isnan(resampled_ap(data.ground_truth(), [], "segm")["segm_mAP"]).all()


def random_matches(rng: np.random.Generator, pictures: int, classes: int) -> list[ClassMatches]:
    """Classes of fewer and fewer objects, of which 0.6 are found, among detections that are wrong and less sure."""
    made = []
    for rate in 2 / np.arange(1, classes + 1):
        objects = np.repeat(np.arange(pictures), rng.poisson(rate, pictures))
        hit = objects[rng.random(len(objects)) < 0.6]
        wrong = np.repeat(np.arange(pictures), rng.poisson(0.8 * rate, pictures))
        order = np.argsort(-np.concatenate([rng.normal(1, 1, len(hit)), rng.normal(0, 1, len(wrong))]), kind="stable")
        right = np.flatnonzero(order < len(hit))
        made.append(ClassMatches(objects, np.concatenate([hit, wrong])[order], [right], [np.zeros(0, np.int64)]))
    return made


def mean_ap(classes: list[ClassMatches], drawn: np.ndarray) -> np.ndarray:
    return np.nanmean([one.ap(drawn)[:, 0] for one in classes], axis=0)


def test_an_interval_of_ap_is_as_wide_as_ap_spreads_over_sets_of_pictures() -> None:
    rng, pictures, whole = np.random.default_rng(0), 60, np.ones((60, 1), np.float32)
    scores = [mean_ap(random_matches(rng, pictures, 10), whole)[0] for _ in range(300)]
    held, widths = 0, []
    for _ in range(60):
        classes = random_matches(rng, pictures, 10)
        drawn = np.concatenate([mean_ap(classes, block) for block in islice(resamples(pictures), 3)])
        low, high = interval(float(mean_ap(classes, whole)[0]), drawn)
        held += low <= np.mean(scores) <= high
        widths.append(high - low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(scores), rel=0.15)
    assert held / 60 >= 0.85  # 0.95, less three standard errors of 0.03
