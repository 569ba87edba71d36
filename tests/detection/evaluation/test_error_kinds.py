"""Error kinds and confusions where they are known by construction, and what mending errors must give on random cases."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_cases import CASES, Case
from hypothesis import Phase, given, settings
from pycocotools import mask as mask_api

from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import Category, ImageRecord, ObjectRecord
from convmae.detection.evaluation.coco_metric import coco_results
from convmae.detection.evaluation.coco_scores import evaluate_coco
from convmae.detection.evaluation.error_kinds import ERRORS, confusion, judge, overlaps, sure
from convmae.detection.evaluation.report import _add_errors
from convmae.reports.page import Page

CAT, DOG, BIRD = 0, 1, 2
Box = tuple[float, float, float, float]


def case(
    truth: list[tuple[int, Box, bool]], found: list[tuple[int, Box, float]], kind: str = "bbox"
) -> tuple[CocoData, list[dict[str, Any]]]:
    """A picture of 100 x 100: objects as label, box and crowd, detections as label, box and score."""
    data = CocoData(
        Path(), Path(), [Category(4 + label, name) for label, name in enumerate(("cat", "dog", "bird"))], [], {}
    )
    data.images.append(ImageRecord(1, "", 100, 100))
    data.objects[1] = [
        ObjectRecord(number, label, box, 1.0, crowd, rectangle(box)) for number, (label, box, crowd) in enumerate(truth)
    ]
    predictions = {
        "image_id": 1,
        "boxes": torch.tensor([box for _, box, _ in found]).view(-1, 4),
        "scores": torch.tensor([score for _, _, score in found]),
        "labels": torch.tensor([label for label, _, _ in found], dtype=torch.int64),
        "masks": [rectangle(box) for _, box, _ in found],
    }
    return data, [predictions]


def rectangle(box: Box) -> dict[str, Any]:
    mask = np.zeros((100, 100), dtype=np.uint8, order="F")
    left, top, right, bottom = map(round, box)
    mask[top:bottom, left:right] = 1
    rle = mask_api.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


ONE, FAR = (10, 10, 50, 50), (60, 60, 90, 90)
SHIFTED = (30, 10, 70, 50)  # IoU with ONE: 800 / 2400
NEARLY = (12, 10, 52, 50)  # IoU with ONE: 1520 / 1680
TOUCHING = (48, 10, 88, 50)  # IoU with ONE: 80 / 3120


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([(CAT, ONE, False)], [(CAT, NEARLY, 0.9)], {}),
        ([(CAT, ONE, False)], [], {"missed": 1}),
        ([], [(CAT, ONE, 0.9)], {"background": 1}),
        ([(CAT, ONE, False)], [(CAT, FAR, 0.9)], {"missed": 1, "background": 1}),
        ([(CAT, ONE, False)], [(CAT, TOUCHING, 0.9)], {"missed": 1, "background": 1}),
        ([(CAT, ONE, False)], [(CAT, SHIFTED, 0.9)], {"localisation": 1}),
        ([(CAT, ONE, False)], [(DOG, NEARLY, 0.9)], {"class": 1}),
        ([(CAT, ONE, False)], [(DOG, SHIFTED, 0.9)], {"missed": 1, "both": 1}),
        ([(CAT, ONE, False)], [(CAT, ONE, 0.8), (CAT, NEARLY, 0.9)], {"duplicate": 1}),
        ([(CAT, ONE, False)], [(CAT, ONE, 0.9), (DOG, NEARLY, 0.8)], {"class": 1}),
        ([(CAT, ONE, False), (CAT, NEARLY, False)], [(CAT, ONE, 0.9), (CAT, ONE, 0.8)], {}),
        ([(CAT, FAR, False)], [(CAT, (70, 60, 100, 90), 0.9)], {}),  # IoU 0.5 is enough
        # In a crowd of its class a detection is no error.
        ([(CAT, ONE, True)], [(CAT, (20, 20, 30, 30), 0.9), (CAT, (30, 20, 40, 30), 0.8)], {}),
        ([(CAT, ONE, True)], [(DOG, (20, 20, 30, 30), 0.9)], {"background": 1}),
    ],
)  # fmt: skip
def test_each_kind_of_error_is_told_apart(truth: list, found: list, expected: dict[str, int], kind: str) -> None:
    data, predictions = case(truth, found)
    assert judge(overlaps(data, predictions, kind)).counts() == dict.fromkeys(ERRORS, 0) | expected


def test_mending_an_error_gives_the_ap_without_it() -> None:
    truth = [(CAT, ONE, False), (DOG, FAR, False), (DOG, (10, 60, 40, 90), False)]
    found = [(BIRD, ONE, 0.9), (DOG, (75, 60, 100, 90), 0.8), (DOG, (50, 50, 55, 55), 0.7), (CAT, NEARLY, 0.2)]
    verdicts = judge(overlaps(*case(truth, found), "bbox"))
    once = dict.fromkeys(("missed", "background", "localisation", "class"), 1)
    assert verdicts.counts() == {**once, "both": 0, "duplicate": 0}
    # Cats are at 1 from the start; birds don't count, having no objects; of dogs one of two is found, then one of one.
    assert verdicts.ap() == verdicts.ap(["class"]) == verdicts.ap(["background"]) == 0.5
    assert verdicts.ap(["localisation"]) == pytest.approx((1 + 51 / 101) / 2)
    assert verdicts.ap(["localisation", "missed"]) == 1


def test_the_surest_of_several_mended_detections_finds_the_object() -> None:
    shifted_down = (10, 30, 50, 70)
    data, predictions = case([(CAT, ONE, False)], [(CAT, SHIFTED, 0.6), (CAT, shifted_down, 0.7), (CAT, FAR, 0.65)])
    verdicts = judge(overlaps(data, predictions, "bbox"))
    assert verdicts.ap() == 0
    # 0.7 is right then and 0.6 is gone, so that 0.65 is no longer before anything right
    assert verdicts.ap(["localisation"]) == 1
    assert verdicts.ap(["background"]) == 0


def test_the_page_shows_what_mending_gains_where_nothing_was_right() -> None:
    data, predictions = case([(CAT, ONE, False)], [(CAT, SHIFTED, 0.6), (DOG, FAR, 0.5)])
    page = Page("errors")
    _add_errors(page, "bbox", overlaps(data, predictions, "bbox"), 0.5)
    gains = {row[0]["text"]: row[-1]["text"] for row in page._blocks[0]["content"]}
    assert gains == dict.fromkeys(ERRORS, "0.0") | {"localisation": "+100.0"}


def test_confusion_counts_each_object_and_each_detection_once() -> None:
    truth = [(CAT, ONE, False), (DOG, FAR, False), (BIRD, (60, 10, 90, 40), False), (CAT, (0, 60, 40, 100), True)]
    found = [
        (CAT, NEARLY, 0.9),
        (DOG, ONE, 0.95),  # the cat is found as such, so that this is on nothing
        (BIRD, (61, 60, 91, 90), 0.8),  # a dog taken for a bird
        (CAT, (62, 60, 92, 90), 0.7),  # and once more: the dog is taken
        (CAT, (10, 70, 30, 90), 0.6),  # in a crowd
        (BIRD, (60, 10, 90, 40), 0.3),  # not sure enough
    ]
    data, predictions = case(truth, found)
    expected = np.zeros((4, 4), dtype=int)
    expected[CAT, CAT] = expected[DOG, BIRD] = expected[BIRD, 3] = expected[3, DOG] = expected[3, CAT] = 1
    found_counts = confusion(sure(overlaps(data, predictions, "bbox"), 0.5), 3)
    np.testing.assert_array_equal(found_counts, expected)


@settings(max_examples=30, deadline=None, derandomize=True, phases=[Phase.generate])
@given(CASES)
def test_on_random_cases_the_sums_hold(case: Case) -> None:
    data, predictions = case.make()
    for kind in ("bbox", "segm"):
        pictures = overlaps(data, predictions, kind)
        verdicts = judge(pictures)
        # Unmended it is COCO's AP at IoU 0.5, which looks at 100 detections of a class in a picture.
        if all(np.bincount(found["labels"].numpy(), minlength=1).max() <= 100 for found in predictions):
            coco = evaluate_coco(data.ground_truth(), coco_results(predictions, data), kind)
            assert verdicts.ap() == pytest.approx(coco.stats[1], abs=1e-12)
        assert all(
            verdicts.ap([error]) >= verdicts.ap() for error in ERRORS if error != "missed" or verdicts.found.any()
        )
        assert verdicts.ap(list(ERRORS)) in (1, -1)
        counts = confusion(pictures, len(data.categories))
        objects = np.concatenate([picture.truth for picture in pictures.values()])
        np.testing.assert_array_equal(counts[:-1].sum(axis=1), np.bincount(objects, minlength=len(data.categories)))
        np.testing.assert_array_equal(
            np.diag(counts)[:-1], np.bincount(objects[verdicts.found], minlength=len(data.categories))
        )
        assert counts[:, -1][-1] == 0
