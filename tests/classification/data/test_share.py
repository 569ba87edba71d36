"""A share of the training pictures: as large a part of each class."""

from collections import Counter
from pathlib import Path

from convmae.classification.config import FolderOptions
from convmae.classification.data.dataset import read_splits


def test_a_share_is_a_part_of_each_class(folders: Path) -> None:
    drawn = {share: read_splits(FolderOptions(root=str(folders), share=share)) for share in (0.01, 0.25, 0.5, 1.0)}
    assert [Counter(label for _, label in train.pictures) for train, _ in drawn.values()] == [
        {0: count, 1: count} for count in (1, 3, 6, 12)
    ]
    assert all(len(val.pictures) == 10 for _, val in drawn.values())
    assert set(drawn[0.25][0].pictures) < set(drawn[0.5][0].pictures) < set(drawn[1.0][0].pictures)
    other, _ = read_splits(FolderOptions(root=str(folders), share=0.25, share_seed=1))
    assert other.pictures != drawn[0.25][0].pictures
    few, _ = read_splits(FolderOptions(root=str(folders), share=0.5, per_class=2))
    assert set(few.pictures) < set(drawn[0.5][0].pictures)
    assert len(few.pictures) == 4
