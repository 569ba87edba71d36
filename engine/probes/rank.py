"""How many directions features take up: RankMe (Garrido et al., 2023, arXiv 2210.02885, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 25_600  # features, as many as the paper takes
_EPSILON = 1e-7


def rank_me(values: Tensor) -> float:
    """Returns the effective rank of features [N, C], from 1 to the smaller of both: how evenly their singular values lie.

    It is the exponential of the entropy of the singular values over their sum. Of many features some, evenly spread, are taken.
    """
    step = -(-len(values) // _MOST)
    singular = torch.linalg.svdvals(values[::step].double())
    part = singular / singular.sum().clamp_min(torch.finfo(torch.float64).tiny) + _EPSILON
    return float((-(part * part.log()).sum()).exp())
