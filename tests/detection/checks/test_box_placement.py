"""Boxes that are no COCO boxes of their pictures by where they lie, and where photographs' boxes may lie."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convmae.detection.checks.box_placement import check_placement
from convmae.detection.data.coco import parse_coco
from convmae.engine.faults import Effect, Fault

WIDTH, HEIGHT = 320, 240
Edit = Callable[[list[float]], list[float]]


def faults_of(tmp_path: Path, edit: Edit, every: int = 1, count: int = 12, each: int = 4) -> list[Fault]:
    """What is found of ``count`` pictures with boxes anywhere in them, of which every n-th was edited."""
    rng = np.random.default_rng(0)
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    for number in range(count):
        content["images"].append({"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
        for _ in range(each):
            width, height = rng.uniform(20, 100, 2)
            box = [rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height), width, height]
            taken = len(content["annotations"]) % every == 0
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": number,
                    "category_id": 1,
                    "bbox": edit(box) if taken else box,
                }
            )
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    found: list[Fault] = []
    data = parse_coco(path, tmp_path, lambda fault: None)
    check_placement(data, found.append)
    return found


WRONG: dict[str, tuple[Edit, Effect, str]] = {
    "of pictures twice as large": (
        lambda box: [2 * value for value in box], Effect.STOPS, "lie wholly outside their pictures",
    ),
    "of pictures a little larger": (
        lambda box: [1.2 * value for value in box], Effect.DOUBTFUL, "go beyond the edges of their pictures",
    ),
    "of smaller pictures": (
        lambda box: [value / 2 for value in box], Effect.DOUBTFUL, "keep to the upper left corner, up to 50 % of their",
    ),
    "percent": (
        lambda box: [100 * value / side for value, side in zip(box, [WIDTH, HEIGHT] * 2, strict=True)],
        Effect.DOUBTFUL, "They would fit percent of the pictures' sizes, too.",
    ),
    "one for all": (lambda box: [100, 90, 120, 130], Effect.DOUBTFUL, "48 of 48 boxes are the same on their pictures"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_boxes_of_other_pictures_than_these_are_told_from_where_they_lie(tmp_path: Path, case: str) -> None:
    edit, effect, said = WRONG[case]
    (fault,) = faults_of(tmp_path, edit)
    assert fault.effect is effect
    assert said in str(fault)


RIGHT: dict[str, tuple[Edit, int]] = {
    "as they are": (lambda box: box, 1),
    "some at the edge that go on beyond it": (lambda box: [280, box[1], 80, box[3]], 6),
    "a few outside": (lambda box: [400, 300, 20, 20], 16),
    "in the middle": (lambda box: [110 + box[0] / 4, 80 + box[1] / 4, box[2], box[3]], 1),
    "in the lower half": (lambda box: [box[0], 120 + box[1] / 2, box[2], box[3] / 2], 1),
    "in the left half": (lambda box: [box[0] / 2, box[1], box[2] / 2, box[3]], 1),
    "many of one size at the same place": (lambda box: [0, 0, 320, 100], 3),
}


@pytest.mark.parametrize("case", RIGHT)
def test_boxes_may_lie_where_objects_lie(tmp_path: Path, case: str) -> None:
    edit, every = RIGHT[case]
    assert not faults_of(tmp_path, edit, every)


def test_a_few_boxes_prove_nothing(tmp_path: Path) -> None:
    assert not faults_of(tmp_path, lambda box: [value / 3 for value in box], count=5, each=2)
    assert not faults_of(tmp_path, lambda box: [400, 300, 20, 20], count=1, each=3)
