"""ConvMAE: masked autoencoding with a multi-stage convolution-transformer encoder (arXiv 2205.03892, section 3)."""

from __future__ import annotations

from torch import Tensor, nn

from convmae.backbones.convvit import ConvViTEncoder
from convmae.backbones.layers import PatchConv
from convmae.backbones.masked import VisiblePatches, encode_visible
from convmae.pretraining.autoencoder import MaskedAutoencoder


class ConvMAE(MaskedAutoencoder, ConvViTEncoder):
    """A masked autoencoder whose encoder has two convolution stages before the transformer; `size` is of `SIZES`.

    Its arguments are those of `MaskedAutoencoder`.
    """

    def add_output(self) -> int:
        """Makes the convolutions that bring E1 and E2 to stage 3's grid and width, and the norm of the three's sum."""
        width1, width2, width3 = self.embed_dims
        self.stage1_output_decode = PatchConv(width1, width3, 4)
        self.stage2_output_decode = PatchConv(width2, width3, 2)
        self.norm = nn.LayerNorm(width3, eps=1e-6)
        return width3

    def forward_encoder(self, images: Tensor, visible: VisiblePatches) -> Tensor:
        """Encodes the R visible patches, all stages fused (section 3.3), and normalises: [R, C]."""
        e1, e2, e3 = encode_visible(self, images, visible)
        e1, e2 = self.stage1_output_decode(e1).flatten(0, 2), self.stage2_output_decode(e2).flatten(0, 2)
        return self.norm(e1 + e2 + e3)

    def encode_whole(self, images: Tensor) -> Tensor:
        """The stages of unmasked images [B, in_chans, H, W], sides multiples of 16, fused and normalised: [B, L, C]."""
        e1, e2, e3 = self.forward_stages(images)
        return self.norm(self.stage1_output_decode(e1) + self.stage2_output_decode(e2) + e3).flatten(1, 2)
