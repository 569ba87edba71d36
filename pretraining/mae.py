"""MAE: masked autoencoding with a plain vision transformer (arXiv 2111.06377), the baseline of the paper's tables."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmae.backbones.masked import VisiblePatches
from convmae.backbones.position import resample_pos_embed
from convmae.backbones.vit import ViTEncoder
from convmae.pretraining.autoencoder import MaskedAutoencoder
from convmae.pretraining.decoder import DecoderDims, insert_mask_tokens


class MAE(MaskedAutoencoder, ViTEncoder):
    """A masked autoencoder on a plain ViT with a class token; parameter names and outputs are the public MAE's.

    Its arguments are those of `MaskedAutoencoder`; `size` is of `VIT_SIZES`.
    """

    def add_output(self) -> int:
        """Makes the norm of the tokens."""
        self.norm = nn.LayerNorm(self.dims.embed_dim, eps=1e-6)
        return self.dims.embed_dim

    def add_decoder(self, width: int, dims: DecoderDims) -> None:
        """Makes the decoder, whose positions have a row for the class token, too."""
        super().add_decoder(width, dims)
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
