"""Repeat-factor sampling: pictures of rare classes come more often."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.engine.seeding import SampleKey, SeededDataset
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.dataset import SegmentationDataset
from convmae.segmentation.data.layout import Pair, find_pairs
from convmae.segmentation.data.rare_classes import find_classes, repeat_rare

PAIRS = [Pair(Path(f"{number}.jpg"), Path(f"{number}.png")) for number in range(200)]


def copies(held: np.ndarray, threshold: float) -> list[int]:
    repeated = repeat_rare(PAIRS[: len(held)], held, threshold)
    assert repeated == sorted(repeated, key=PAIRS.index)
    return [repeated.count(pair) for pair in PAIRS[: len(held)]]


def test_classes_of_each_picture(ade_root: Path) -> None:
    pairs = find_pairs(ade_root / "images/training", ade_root / "annotations/training")
    Image.fromarray(np.full((40, 48), 2, dtype=np.uint8)).save(pairs[3].label)
    held = find_classes(pairs, 3, True)
    assert held[3].tolist() == [False, True, False]
    for pair, row in zip(pairs, held, strict=True):
        values = set(np.unique(np.array(Image.open(pair.label)))) - {0}
        assert {int(value) for value in values} == {index + 1 for index in np.flatnonzero(row)}


def test_factors_worked_by_hand() -> None:
    held = np.array([[True, False], [True, False], [True, False], [True, True]])
    assert copies(held, 1.0) == [1, 1, 1, 2]  # the second class is in a quarter of the pictures: sqrt(1 / 0.25)
    assert copies(held, 0.25) == [1, 1, 1, 1]
    none = np.array([[False, False], [True, False], [True, False], [True, False]])
    assert copies(none, 0.7) == [1, 1, 1, 1]


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.5, 1.0])
def test_factors_of_many_pictures_are_rounded_so_that_they_add_up(threshold: float) -> None:
    held = np.random.default_rng(0).random((200, 12)) < np.geomspace(0.9, 0.01, 12)
    share = held.mean(axis=0)
    factors = [
        max([1.0] + [(threshold / share[index]) ** 0.5 for index in np.flatnonzero(row) if share[index] < threshold])
        for row in held
    ]
    found = copies(held, threshold)
    assert all(int(factor) <= count <= int(factor) + 1 for factor, count in zip(factors, found, strict=True))
    assert abs(sum(found) - sum(factors)) < 1
    rarest = share.argmin()
    assert (held[:, rarest] @ found + 1) / sum(found) > share[rarest]  # rounding may give one copy to another picture


def test_copies_of_a_picture_have_crops_of_their_own(ade_root: Path) -> None:
    pairs = find_pairs(ade_root / "images/training", ade_root / "annotations/training")[:1] * 2
    options = SegmentationDataOptions(root=str(ade_root), crop=32, scale=[48, 40])
    dataset = SeededDataset(SegmentationDataset(pairs, ["square", "stripe", "dot"], options, train=True), seed=0)
    one, two, again = (dataset[SampleKey(0, index)]["inputs"] for index in (0, 1, 0))
    assert not torch.equal(one, two)
    assert torch.equal(one, again)
