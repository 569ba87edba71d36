"""Which anchors and proposals of a picture the detector learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from convmae.backbones.layers import rand_samples

_LAST = 2**30  # above every key


class BalancedSampler:
    """Chooses ``count`` candidates of each picture at random, at most ``positive_fraction`` of them positive.

    A candidate's key is hashed from its index and a number drawn for its picture, so that a picture has the same draws
    whatever process it is in and whatever pictures are beside it; the smallest keys are chosen. All shapes follow from
    the arguments' shapes: a GPU is never waited for.
    """

    def __init__(self, count: int, positive_fraction: float) -> None:
        self.count, self.positive_fraction = count, positive_fraction

    @property
    def positives(self) -> int:
        """The largest number of positive candidates of a picture."""
        return int(self.count * self.positive_fraction)

    def __call__(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the indices [B, count] of the chosen candidates and what each is: 1 positive, 0 negative, -1 none is left.

        Positive ones come first, then negative ones, then what is to be left out, if a picture has too few.
        states: for each picture [N], 1 for positive candidates, 0 for negative ones, -1 for those to leave out.
        """
        joined = pad_sequence(list(states), batch_first=True, padding_value=-1)
        keys = _keys(len(joined), joined.shape[1], joined.device)
        key, index = _smallest(keys, joined == 1, self.positives)
        found = key < _LAST
        left = self.count - found.sum(dim=1, keepdim=True)
        other_key, other_index = _smallest(keys, joined == 0, self.count)
        other_found = (other_key < _LAST) & (torch.arange(other_key.shape[1], device=keys.device) < left)
        kind = torch.cat([torch.where(found, 1, -1), torch.where(other_found, 0, -1)], dim=1)
        kind, order = kind.sort(dim=1, descending=True, stable=True)
        index = torch.cat([index, other_index], dim=1).gather(1, order)
        return index[:, : self.count], kind[:, : self.count]


def choose_all(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """As ``BalancedSampler``, of all candidates: returns indices [B, N] and what each is, in the same order of kinds."""
    kind, index = pad_sequence(list(states), batch_first=True, padding_value=-1).sort(
        dim=1, descending=True, stable=True
    )
    return index, kind


def _smallest(keys: Tensor, candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    found = torch.where(candidates, keys, _LAST).topk(min(count, keys.shape[1]), dim=1, largest=False)
    return found.values, found.indices


def _keys(pictures: int, candidates: int, device: torch.device) -> Tensor:
    """Returns random integers [B, N] from 0 to 2**30 - 1; those of a picture are the first of one endless sequence."""
    start = _mix((rand_samples(pictures, device=device) * 2**24).int())  # the generator gives 24 random bits
    return _mix(start[:, None] + torch.arange(candidates, dtype=torch.int32, device=device)) & (_LAST - 1)


def _mix(x: Tensor) -> Tensor:
    """Returns a permutation of the 32-bit integers that changes about half of the bits when one changes: multiply, fold, twice.

    Products keep their lowest 32 bits.
    """
    for factor in (0x45D9F3B, 0x2C1B3C6D):
        x = (x ^ (x >> 16)) * factor
    return x ^ (x >> 16)
