"""Weighted k-nearest-neighbour classification of frozen features (as in arXiv 1805.01978)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.classification.features import Features

SIMILARITIES = 2**28  # looked at a time: a gigabyte


def standardize(train: Tensor, other: Tensor) -> Tensor:
    """Returns ``other`` [N, C] with each channel's mean and deviation over ``train`` taken out.

    ConvMAE's raw E3 has channels that are large and hardly vary; without this they decide every similarity.
    """
    deviation, mean = torch.std_mean(train, dim=0, correction=0)
    return (other - mean) / (deviation + 1e-6)


@torch.inference_mode()
def knn_scores(
    train: Features, values: Tensor, classes: int, ks: Sequence[int], temperature: float, device: torch.device
) -> dict[int, Tensor]:
    """Returns for each k the votes [N, classes], summing to 1, of the k training features most like each of ``values`` [N, C].

    The votes are counted on ``device`` and returned on the CPU. Likeness is the cosine s of standardised features, and a vote
    weighs exp(s / temperature).
    """
    known, labels = (one.to(device) for one in train)
    bank = F.normalize(standardize(known, known), dim=1)
    queries = F.normalize(standardize(known, values.to(device)), dim=1)
    most = min(max(ks), len(bank))
    votes: dict[int, list[Tensor]] = {k: [] for k in ks}
    for part in queries.split(max(1, SIMILARITIES // len(bank))):
        similarity, nearest = (part @ bank.T).topk(most, dim=1)
        chosen = labels[nearest]
        # Relative to the best, so that small temperatures don't overflow.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        for k in ks:
            counted = part.new_zeros(len(part), classes).scatter_add_(1, chosen[:, :k], weights[:, :k])
            votes[k].append(counted / counted.sum(1, keepdim=True))
    return {k: torch.cat(parts).cpu() for k, parts in votes.items()}
