"""FastConvMAE: ConvMAE on complementary masks, which together show every patch of an image once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convmae.pretraining.convmae import ConvMAE
from convmae.pretraining.masking import complementary_masking, group_count


class FastConvMAE(ConvMAE):
    """ConvMAE with G views an image instead of one, each reconstructing what it does not see.

    The views don't mix, so each one's features equal a ConvMAE pass with that mask alone. Outputs are group-major.

    Args:
        groups: G, 2 or more; None for as many as the mask ratio leaves room for, round(1 / (1 - mask_ratio)).
        args, options: of `ConvMAE`.
    """

    def __init__(self, *args: Any, groups: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.groups = groups

    def masks(self, noise: Tensor, mask_ratio: float) -> list[Tensor]:
        """The patches of each view, [B, n] for every group, by noise [B, L]; set `groups` win over the ratio."""
        return complementary_masking(noise, group_count(mask_ratio) if self.groups is None else self.groups)
