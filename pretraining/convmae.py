"""ConvMAE: masked autoencoding with a multi-stage convolution-transformer encoder (arXiv 2205.03892, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from convmae.backbones.convvit import ConvViTEncoder, Dims
from convmae.backbones.layers import PatchConv
from convmae.backbones.masked import VisiblePatches, encode_visible
from convmae.pretraining.autoencoder import MaskedAutoencoder
from convmae.pretraining.decoder import decoder_dims


class ConvMAE(MaskedAutoencoder, ConvViTEncoder):
    """A masked autoencoder whose encoder has two convolution stages before the transformer.

    Args:
        size: the encoder's, and by it the decoder's: a name of `SIZES`, a dict of dims or a `Dims`.
        img_size: pixels (a side, or height and width) whose grid the fixed positions are kept at.
        norm_pix_loss: the target is each patch's pixels less their mean over their deviation.
        decoder_dim, decoder_depth, decoder_heads: None for the size's own.
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
        in_chans: channels of the images; 3 are RGB.
    """

    def __init__(
        self,
        size: str | Mapping[str, Any] | Dims = "base",
        img_size: int | tuple[int, int] = 224,
        norm_pix_loss: bool = True,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        decoder_heads: int | None = None,
        checkpoint_activations: bool = False,
        in_chans: int = 3,
    ) -> None:
        ConvViTEncoder.__init__(self, size, img_size, checkpoint_activations=checkpoint_activations, in_chans=in_chans)
        self.norm_pix_loss = norm_pix_loss
        width1, width2, width3 = self.embed_dims
        self.pos_embed.requires_grad_(False)  # sin-cos, fixed while pretraining
        self.stage1_output_decode = PatchConv(width1, width3, 4)
        self.stage2_output_decode = PatchConv(width2, width3, 2)
        self.norm = nn.LayerNorm(width3, eps=1e-6)
        self.add_decoder(width3, decoder_dims(size, decoder_dim, decoder_depth, decoder_heads))

    def forward_encoder(self, images: Tensor, visible: VisiblePatches) -> Tensor:
        """Encodes the R visible patches, all stages fused (section 3.3), and normalises: [R, C]."""
        e1, e2, e3 = encode_visible(self, images, visible)
        e1, e2 = self.stage1_output_decode(e1).flatten(0, 2), self.stage2_output_decode(e2).flatten(0, 2)
        return self.norm(e1 + e2 + e3)

    def encode_whole(self, images: Tensor) -> Tensor:
        """The stages of unmasked images [B, in_chans, H, W], sides multiples of 16, fused and normalised: [B, L, C]."""
        e1, e2, e3 = self.forward_stages(images)
        return self.norm(self.stage1_output_decode(e1) + self.stage2_output_decode(e2) + e3).flatten(1, 2)
