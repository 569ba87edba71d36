"""Weighted k-nearest-neighbour classification of frozen features (as in arXiv 1805.01978)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.engine.probes.features import Features

SIMILARITIES = 2**28  # looked at a time: a gigabyte


def standardize(train: Tensor, other: Tensor) -> Tensor:
    """Returns ``other`` [N, C] with each channel's mean and deviation over ``train`` taken out.

    ConvMAE's raw E3 has channels that are large and hardly vary; without this they decide every similarity.
    """
    deviation, mean = torch.std_mean(train, dim=0, correction=0)
    return (other - mean) / (deviation + 1e-6)


@torch.inference_mode()
def knn_scores(
    train: Features, other: Features, classes: int, ks: Sequence[int], temperature: float, device: torch.device
) -> dict[int, Tensor]:
    """Returns for each k the votes [N, classes], summing to 1, of the k training pictures most like each of ``other``.

    The votes are counted on ``device`` and returned on the CPU. Likeness is the cosine s of standardised features, and a vote
    weighs exp(s / temperature). A picture that is a training picture itself, by its pixels, is not among its neighbours; where
    no other is left, all classes have the same votes.
    """
    known, labels, contents = (one.to(device) for one in train)
    bank = F.normalize(standardize(known, known), dim=1)
    queries = F.normalize(standardize(known, other.values.to(device)), dim=1)
    most = min(max(ks), len(bank))
    votes: dict[int, list[Tensor]] = {k: [] for k in ks}
    rows = max(1, SIMILARITIES // len(bank))
    for part, own in zip(queries.split(rows), other.contents.to(device).split(rows), strict=True):
        likeness = part @ bank.T
        repeated = torch.isin(own, contents).nonzero().flatten()
        likeness[repeated] = likeness[repeated].masked_fill(own[repeated, None] == contents, -torch.inf)
        similarity, nearest = likeness.topk(most, dim=1)
        chosen = labels[nearest]
        # Relative to the best, so that small temperatures don't overflow; -1 where there is none but the picture itself.
        weights = ((similarity - similarity[:, :1].clamp(min=-1)) / temperature).exp()
        for k in ks:
            counted = part.new_zeros(len(part), classes).scatter_add_(1, chosen[:, :k], weights[:, :k])
            total = counted.sum(1, keepdim=True)
            votes[k].append(torch.where(total > 0, counted / total, 1 / classes))
    return {k: torch.cat(parts).cpu() for k, parts in votes.items()}
