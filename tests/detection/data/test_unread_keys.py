"""Keys of other programs in a COCO file that change what its objects mean."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_detector import tiny_config

from convmae.detection.checks.data_check import check_data
from convmae.detection.checks.preflight import read_splits
from convmae.detection.data.coco import parse_coco
from convmae.engine.faults import Effect, Fault

Edit = Callable[[dict[str, Any]], Any]
Change = Callable[[Edit], Path]

UNREAD: dict[str, tuple[Edit, str, str]] = {
    "ignore": (lambda c: c["annotations"][1].update(ignore=1), "to be ignored", "(the first is annotation 2) have ignore=1"),
    "difficult": (lambda c: c["annotations"][1].update(difficult=True), "to be ignored", "have difficult=1"),
    "turned": (lambda c: c["annotations"][1].update(attributes={"rotation": 37.5}), "turned boxes", "1 of 7 objects"),
    "LVIS": (
        lambda c: c["images"][0].update(not_exhaustive_category_ids=[7]), "labelled for some classes alone", "1 of 4 pictures",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREAD)
def test_what_a_file_says_and_is_not_gone_by_is_doubted_by_check_and_run(
    split: Path, change: Change, case: str
) -> None:
    edit, kind, said = UNREAD[case]
    change(edit)
    config = tiny_config(split)
    (fault,) = [fault for fault in check_data(config)[0].faults if kind in fault.kind]
    assert fault.effect is Effect.DOUBTFUL
    assert said in str(fault)
    train, _ = read_splits(config.data, masks=True)
    (remark,) = [remark for remark in train.remarks if remark.kind == fault.kind]
    assert remark.first == (str(fault),)


@pytest.mark.parametrize(
    "extra",
    [
        {"ignore": 0, "difficult": False, "attributes": {"rotation": 0.0, "occluded": True}},
        {"ignore": None, "attributes": [], "keypoints": [1, 2, 2], "num_keypoints": 1},
        {"attributes": {"rotation": 180}, "difficult": "no"},
    ],
)
def test_other_keys_are_passed_over(split: Path, extra: dict[str, Any]) -> None:
    path = split / "instances.json"
    content = json.loads(path.read_text())
    for entry in [*content["annotations"], *content["images"]]:
        entry.update(extra, neg_category_ids=[])
    path.write_text(json.dumps(content))
    found: list[Fault] = []
    parse_coco(path, split / "images", found.append)
    assert not found
