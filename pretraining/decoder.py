"""Parts of the pretraining decoder: its dimensions by size, and the mask tokens between the encoded ones."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from convmae.backbones.masked import VisiblePatches


class DecoderDims(NamedTuple):
    """Width, number of transformer blocks, attention heads."""

    dim: int
    depth: int
    heads: int


PUBLISHED = DecoderDims(512, 8, 16)  # ConvMAE's for base; large and huge keep it, as in MAE
DECODERS = {
    "tiny": DecoderDims(128, 2, 4),  # ours: as cheap as the encoder it serves
    "small": DecoderDims(256, 4, 8),  # ours
}


def decoder_dims(size: object, dim: int | None, depth: int | None, heads: int | None) -> DecoderDims:
    """The decoder of a size ("tiny", ...; what is not listed has the published one), with what is given replaced.

    Raises:
        ValueError: the width does not divide by the heads, or by four (for the positions).
    """
    default = DECODERS.get(size, PUBLISHED) if isinstance(size, str) else PUBLISHED
    chosen = DecoderDims(dim or default.dim, default.depth if depth is None else depth, heads or default.heads)
    if chosen.dim % chosen.heads or chosen.dim % 4:
        raise ValueError(
            f"decoder_dim is {chosen.dim} with {chosen.heads} heads; expected a multiple of 4 and of decoder_heads"
        )
    return chosen


def decoder_heads(dim: int) -> int:
    """The usual number of heads for a decoder's width, which no weight file tells: 32 channels each, as all of `DECODERS`."""
    return max(1, dim // 32)


def insert_mask_tokens(encoded: Tensor, mask_token: Tensor, visible: VisiblePatches) -> Tensor:
    """Puts encoded rows [R, D] in their places among mask tokens [1, 1, D].

    Returns:
        [N, L, D], N views of L tokens.
    """
    tokens = mask_token.to(encoded.dtype).expand(visible.views, visible.tokens, -1).flatten(0, 1)
    return tokens.index_copy(0, visible.in_views, encoded).view(visible.views, visible.tokens, -1)
