"""MAE: masked autoencoding with a plain vision transformer (arXiv 2111.06377), the baseline of the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmae.backbones.masked import VisiblePatches
from convmae.backbones.position import resample_pos_embed
from convmae.backbones.vit import ViTDims, ViTEncoder
from convmae.pretraining.autoencoder import MaskedAutoencoder
from convmae.pretraining.decoder import decoder_dims, insert_mask_tokens


class MAE(MaskedAutoencoder, ViTEncoder):
    """A masked autoencoder on a plain ViT with a class token; parameter names and outputs are the public MAE's.

    Args:
        size: the encoder's, and by it the decoder's: a name of `VIT_SIZES`, a dict of dims or a `ViTDims`.
        img_size, norm_pix_loss, decoder_dim, decoder_depth, decoder_heads, checkpoint_activations, in_chans: as in `ConvMAE`.
    """

    def __init__(
        self,
        size: str | Mapping[str, Any] | ViTDims = "base",
        img_size: int | tuple[int, int] = 224,
        norm_pix_loss: bool = True,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        decoder_heads: int | None = None,
        checkpoint_activations: bool = False,
        in_chans: int = 3,
    ) -> None:
        ViTEncoder.__init__(self, size, img_size, checkpoint_activations=checkpoint_activations, in_chans=in_chans)
        self.norm_pix_loss = norm_pix_loss
        self.pos_embed.requires_grad_(False)  # sin-cos, fixed while pretraining
        self.norm = nn.LayerNorm(self.dims.embed_dim, eps=1e-6)
        self.add_decoder(self.dims.embed_dim, decoder_dims(size, decoder_dim, decoder_depth, decoder_heads))
        self.decoder_pos_embed = nn.Parameter(F.pad(self.decoder_pos_embed, (0, 0, 1, 0)), requires_grad=False)

    def forward_encoder(self, images: Tensor, visible: VisiblePatches) -> Tensor:
        """Encodes the R visible patches of N views and normalises: [R + N, C], the views' class tokens last."""
        patches = self.patch_embed["proj"](visible.pixels(images)).flatten(0, 2)
        patches = patches + self.positions(visible.grid)[1][0].index_select(0, visible.ids)
        views = [self.norm(self.forward_blocks(part, visible.grid)) for part in visible.split(patches)]
        return torch.cat([x[:, 1:].flatten(0, 1) for x in views] + [x[:, 0] for x in views])

    def encode_whole(self, images: Tensor) -> Tensor:
        """The normalised patch tokens of unmasked images [B, in_chans, H, W], sides multiples of 16: [B, L, C]."""
        return self.norm(self.forward_features(images))

    def decoder_input(self, embedded: Tensor, visible: VisiblePatches) -> Tensor:
        """The class token of each view, then its patches among mask tokens, with positions: [N, 1 + L, decoder_dim]."""
        patches, first = embedded.split([len(visible.ids), visible.views])
        positions = self.decoder_pos_embed
        x = insert_mask_tokens(patches, self.mask_token, visible)
        x = x + resample_pos_embed(positions[:, 1:], self.grid_size, visible.grid)
        return torch.cat([first[:, None] + positions[:, :1], x], dim=1)
