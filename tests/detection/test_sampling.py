"""The sampler keeps torchvision's promises, and a picture's choice is its own."""

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from convmae.detection.sampling import BalancedSampler


def labels_of(positives: int, negatives: int, ignored: int) -> torch.Tensor:
    labels = torch.cat([torch.arange(1, positives + 1), torch.zeros(negatives), torch.full((ignored,), -1.0)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(positives))]


@pytest.mark.parametrize("numbers", [(3, 40, 5), (30, 40, 0), (0, 40, 1), (3, 4, 0), (5, 0, 9), (0, 0, 4)])
def test_counts_are_torchvisions_and_classes_are_kept_apart(numbers: tuple[int, int, int]) -> None:
    labels = [labels_of(*numbers), labels_of(2, 50, 0)]
    theirs = BalancedPositiveNegativeSampler(16, 0.25)(labels)
    for chosen, expected, wanted in zip(
        BalancedSampler(16, 0.25)(labels), theirs, (lambda x: x >= 1, lambda x: x == 0), strict=True
    ):
        for mask, other, found in zip(chosen, expected, labels, strict=True):
            assert mask.sum() == other.sum()
            assert wanted(found[mask]).all()


def test_a_choice_follows_from_the_pictures_place_and_not_from_its_neighbours() -> None:
    labels = labels_of(20, 100, 3)
    torch.manual_seed(1)
    beside_few = BalancedSampler(32, 0.5)([labels_of(1, 5, 0), labels])
    torch.manual_seed(1)
    beside_many = BalancedSampler(32, 0.5)([labels_of(9, 500, 0), labels])
    torch.manual_seed(2)
    elsewhere = BalancedSampler(32, 0.5)([labels_of(1, 5, 0), labels])
    for few, many, other in zip(beside_few, beside_many, elsewhere, strict=True):
        assert torch.equal(few[1], many[1])
        assert not torch.equal(few[1], other[1])


def test_every_candidate_has_its_turn() -> None:
    torch.manual_seed(0)
    sampler, labels = BalancedSampler(8, 0.5), labels_of(12, 24, 0)
    counts = sum(
        positive[0].int() + negative[0].int() for positive, negative in (sampler([labels]) for _ in range(600))
    )
    assert ((counts[labels >= 1] - 200).abs() < 60).all()
    assert ((counts[labels == 0] - 100).abs() < 50).all()
