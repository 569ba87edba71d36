"""The sampler keeps torchvision's promises, and a picture's choice is its own."""

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from convmae.detection.model.sampling import BalancedSampler, _keys


def labels_of(positives: int, negatives: int, ignored: int) -> torch.Tensor:
    labels = torch.cat([torch.arange(1, positives + 1), torch.zeros(negatives), torch.full((ignored,), -1.0)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(positives))]


def chosen(sampler: BalancedSampler, labels: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The sampler's choice in torchvision's form: for each picture, which candidates are chosen as positive and as negative."""
    index, kind = sampler([labels_.clamp(max=1) for labels_ in labels])
    assert index.shape == kind.shape
    masks = []
    for wanted in (1, 0):
        masks.append([torch.zeros(len(found), dtype=torch.bool) for found in labels])
        for mask, places, what in zip(masks[-1], index, kind, strict=True):
            assert len(places[what == wanted].unique()) == (what == wanted).sum()
            mask[places[what == wanted]] = True
    assert (kind.diff(dim=1) <= 0).all()
    return masks[0], masks[1]


@pytest.mark.parametrize("numbers", [(3, 40, 5), (30, 40, 0), (0, 40, 1), (3, 4, 0), (5, 0, 9), (0, 0, 4)])
def test_counts_are_torchvisions_and_classes_are_kept_apart(numbers: tuple[int, int, int]) -> None:
    labels = [labels_of(*numbers), labels_of(2, 50, 0)]
    theirs = BalancedPositiveNegativeSampler(16, 0.25)(labels)
    for ours, expected, wanted in zip(
        chosen(BalancedSampler(16, 0.25), labels), theirs, (lambda x: x >= 1, lambda x: x == 0), strict=True
    ):
        for mask, other, found in zip(ours, expected, labels, strict=True):
            assert mask.sum() == other.sum()
            assert wanted(found[mask]).all()


def test_a_choice_follows_from_the_pictures_place_and_not_from_its_neighbours() -> None:
    labels = labels_of(20, 100, 3)
    torch.manual_seed(1)
    beside_few = chosen(BalancedSampler(32, 0.5), [labels_of(1, 5, 0), labels])
    torch.manual_seed(1)
    beside_many = chosen(BalancedSampler(32, 0.5), [labels_of(9, 500, 0), labels])
    torch.manual_seed(2)
    elsewhere = chosen(BalancedSampler(32, 0.5), [labels_of(1, 5, 0), labels])
    for few, many, other in zip(beside_few, beside_many, elsewhere, strict=True):
        assert torch.equal(few[1], many[1])
        assert not torch.equal(few[1], other[1])


def test_every_candidate_has_its_turn() -> None:
    torch.manual_seed(0)
    sampler, labels = BalancedSampler(8, 0.5), labels_of(12, 24, 0)
    counts = sum(
        positive[0].int() + negative[0].int() for positive, negative in (chosen(sampler, [labels]) for _ in range(600))
    )
    assert ((counts[labels >= 1] - 200).abs() < 60).all()
    assert ((counts[labels == 0] - 100).abs() < 50).all()


def test_candidates_are_chosen_independently_of_one_another() -> None:
    """Of 64 candidates 32 are chosen: each two of them together in 32 * 31 / (64 * 63) of the draws."""
    torch.manual_seed(0)
    draws = 4000
    picked = torch.zeros(draws, 64)
    for start in range(0, draws, 100):
        index, _ = BalancedSampler(32, 0.5)([torch.zeros(64, dtype=torch.int64)] * 100)
        picked[start : start + 100].scatter_(1, index, 1.0)
    together = picked.T @ picked / draws
    deviation = (0.246 * 0.754 / draws) ** 0.5
    apart = ~torch.eye(64, dtype=torch.bool)
    assert together[apart].mean() == pytest.approx(32 * 31 / (64 * 63), abs=1e-6)
    assert (together[apart] - 32 * 31 / (64 * 63)).abs().max() < 5 * deviation
    assert together[apart].std() < 1.2 * deviation


def test_the_keys_of_a_large_picture_are_spread_evenly() -> None:
    torch.manual_seed(0)
    keys = _keys(4, 2**18, torch.device("cpu"))
    assert keys.min() >= 0
    for one in keys:
        assert len(one.unique()) > 2**18 - 200  # of 2**30: 32 pairs expected
        counts = torch.bincount(one >> 20, minlength=1024).double()
        assert counts.square().mean() - counts.mean().square() == pytest.approx(256, rel=0.3)  # Poisson's
    assert abs(torch.corrcoef(keys.double())[0, 1:]).max() < 0.01
