"""Training pictures kept in memory give the samples that their files give."""

from pathlib import Path

import torch

from convmae.classification.config import AugmentationOptions, FolderOptions
from convmae.classification.data.dataset import TrainSet, read_splits
from convmae.engine.seeding import SampleKey, SeededDataset


def test_augmented_crops_are_the_same(folders: Path) -> None:
    training, _ = read_splits(FolderOptions(root=str(folders)))
    plain, kept = (SeededDataset(TrainSet(training, AugmentationOptions(), 32, keep), 0) for keep in ("none", "memory"))
    for epoch in range(3):
        for index in range(len(plain)):
            one, other = (data[SampleKey(epoch, index)] for data in (plain, kept))
            assert one["labels"] == other["labels"]
            for name in ("images", "mix"):
                assert torch.equal(one[name], other[name]), name
