"""Which tokens stay visible: one random subset (ConvMAE), or complementary subsets that share out all (FastConvMAE).

Drawn at stage 3's grid, so that a token stands for a 16x16 block of pixels in every stage (block-wise masking, ConvMAE
section 3.2). Kept tokens are given as lists of index tensors [N_i, n_i], each row one masked view of an image; a list
has two entries where sizes differ by one, else one.
"""

from __future__ import annotations

from torch import Tensor


def random_masking(noise: Tensor, mask_ratio: float) -> list[Tensor]:
    """Keeps the tokens of least noise, as MAE does.

    Args:
        noise: [B, L].
        mask_ratio: part of the tokens that is removed, between 0 and 1.

    Returns:
        One tensor [B, int(L * (1 - mask_ratio))] of kept tokens' indices.

    Raises:
        ValueError: the ratio keeps or removes nothing.
    """
    tokens = noise.shape[1]
    kept = int(tokens * (1 - mask_ratio) + 1e-6)  # the sum guards against 0.2 * 5 = 0.99...
    if not 0 < kept < tokens:
        raise ValueError(
            f"mask_ratio {mask_ratio} keeps {kept} of {tokens} tokens; expected a ratio that keeps at least one and "
            "removes at least one (a larger image has more tokens)"
        )
    return [noise.argsort(dim=1)[:, :kept]]


def complementary_masking(noise: Tensor, groups: int) -> list[Tensor]:
    """Shares the tokens of each image out to `groups` subsets by one shuffle; sizes differ by at most one.

    Args:
        noise: [B, L].
        groups: number of subsets, at least 2.

    Returns:
        The kept tokens' indices, group-major: row g * B + b is image b's group g. The first groups are the larger ones.

    Raises:
        ValueError: fewer than 2 groups, or more groups than tokens.
    """
    batch, tokens = noise.shape
    if not 2 <= groups <= tokens:
        raise ValueError(f"{groups} complementary groups of {tokens} tokens; expected 2 to {tokens} groups")
    shuffled = noise.argsort(dim=1)
    size, larger = divmod(tokens, groups)
    first = larger * (size + 1)
    parts = [(shuffled[:, :first], larger), (shuffled[:, first:], groups - larger)]
    return [part.reshape(batch, count, -1).transpose(0, 1).reshape(batch * count, -1) for part, count in parts if count]


def group_count(mask_ratio: float) -> int:
    """The number of complementary groups at a ratio: round(1 / (1 - mask_ratio)), at least 2; 4 at 0.75.

    Raises:
        ValueError: the ratio keeps or removes nothing.
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio is {mask_ratio}; expected more than 0 and less than 1")
    return max(2, round(1 / (1 - mask_ratio)))
