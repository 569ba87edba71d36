"""Which anchors and proposals of a picture the detector learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from convmae.backbones.layers import rand_samples


class BalancedSampler:
    """Chooses ``batch_size_per_image`` candidates of each picture at random, at most ``positive_fraction`` of them positive.

    It stands in for torchvision's sampler, whose draws for a picture follow from how many candidates the pictures before it
    had; here each picture has its own generator, so that it gets the same draws whatever process it is in.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns for each picture which candidates are chosen as positive and as negative, bool [N] each.

        labels: for each picture [N], above 0 for positive candidates, 0 for negative ones, below for those to leave out.
        """
        seeds = (rand_samples(len(labels)) * 2**24).long().tolist()  # the generator gives 24 random bits
        chosen = [self._choose(found, seed) for found, seed in zip(labels, seeds, strict=True)]
        return [positive for positive, _ in chosen], [negative for _, negative in chosen]

    def _choose(self, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(labels.device).manual_seed(seed)

        def some(candidates: Tensor, count: int) -> Tensor:
            order = torch.randperm(len(candidates), generator=generator, device=labels.device)
            mask = torch.zeros_like(labels, dtype=torch.bool)
            mask[candidates[order[:count]]] = True
            return mask

        positive, negative = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
        positives = min(len(positive), int(self.batch_size_per_image * self.positive_fraction))
        return some(positive, positives), some(negative, self.batch_size_per_image - positives)
