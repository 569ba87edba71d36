"""Mixing against its plain definition, sample by sample."""

import random

import pytest
import torch

from convmae.classification.data.mixing import draw_mix, mix


def test_mixup_is_the_weighted_mean_of_neighbours() -> None:
    images, targets = torch.randn(5, 3, 8, 8), torch.eye(5)
    drawn = torch.tensor([[0.3, 0, 0.5, 0.5], [0.9, 0, 0.5, 0.5], [1.0, 0, 0, 0], [0.0, 0, 0, 0], [0.2, 0, 0, 0]])
    mixed, labels = mix(images, targets, drawn)
    for sample, neighbour, share in ((0, 1, 0.3), (1, 0, 0.9), (2, 3, 1.0), (3, 2, 0.0), (4, 4, 0.2)):
        torch.testing.assert_close(mixed[sample], share * images[sample] + (1 - share) * images[neighbour])
        torch.testing.assert_close(labels[sample], share * targets[sample] + (1 - share) * targets[neighbour])


def test_cutmix_takes_a_box_of_the_neighbour_and_labels_by_area() -> None:
    images, targets = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)]), torch.eye(2)
    drawn = torch.tensor([[0.75, 1, 0.5, 0.5], [0.75, 1, 0.0, 0.0]])
    mixed, labels = mix(images, targets, drawn)
    box = torch.zeros(16, 16)
    box[4:12, 4:12] = 1  # a quarter of the area, in the middle
    assert torch.equal(mixed[0], box.expand(3, -1, -1))
    torch.testing.assert_close(labels[0], torch.tensor([0.75, 0.25]))
    corner = torch.ones(16, 16)
    corner[:4, :4] = 0  # the part of that box inside the picture
    assert torch.equal(mixed[1], corner.expand(3, -1, -1))
    torch.testing.assert_close(labels[1], torch.tensor([1 / 16, 15 / 16]))


@pytest.mark.parametrize(("mixup", "cutmix", "cuts"), [(0.8, 0.0, 0), (0.0, 1.0, 400), (0.8, 1.0, 200)])
def test_draws(mixup: float, cutmix: float, cuts: int) -> None:
    random.seed(0)
    drawn = torch.stack([draw_mix(mixup, cutmix) for _ in range(400)])
    assert abs(drawn[:, 1].sum() - cuts) < 40
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert abs(drawn[:, 0].mean() - 0.5) < 0.05


def test_nothing_to_mix_leaves_samples_as_they_are() -> None:
    images, targets = torch.randn(2, 3, 4, 4), torch.eye(2)
    mixed, labels = mix(images, targets, torch.stack([draw_mix(0, 0)] * 2))
    assert torch.equal(mixed, images)
    assert torch.equal(labels, targets)
