"""The encoder at visible patches only: the same numbers as a masked dense pass, without computing what is masked.

In stages 1 and 2 all but the 5x5 depthwise convolution works on single positions, and that convolution's input is
zero where masked (paper, section 3.2). So a visible 16x16 patch is a 4x4 tile in stage 1 and a 2x2 tile in stage 2;
all tiles of a batch are rows of one matrix, and only the depthwise convolution looks at a tile's neighbours, those of
the same view of the same image. One pass therefore serves any number of complementary views of an image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones.convvit import STRIDE, ConvViTEncoder
from convmae.backbones.position import Grid
from convmae.backbones.tiles import depthwise, halo_index


class VisiblePatches:
    """Which patches each of N views of B images shows, R in all; view g * B + b shows image b (group-major).

    Args:
        keep: kept patches by their index in the grid, [N_i, n_i]; a list, for views that differ in the number kept.
        images: B; each N_i is a multiple of it.
        grid: patches along height and width, L in all.
    """

    def __init__(self, keep: list[Tensor], images: int, grid: Grid) -> None:
        self.keep = keep
        self.grid = grid
        self.tokens = grid[0] * grid[1]
        self.views = sum(ids.shape[0] for ids in keep)
        self.ids = torch.cat([ids.flatten() for ids in keep])  # [R] places in the grid
        views = torch.arange(self.views, device=self.ids.device).split([ids.shape[0] for ids in keep])
        view = torch.cat([part.repeat_interleave(ids.shape[1]) for part, ids in zip(views, keep, strict=True)])
        self.in_images = view % images * self.tokens + self.ids  # [R] rows of all images' patches [B * L]
        self.in_views = view * self.tokens + self.ids  # [R] rows of all views' tokens [N * L]
        removed = torch.ones(self.views * self.tokens, device=self.ids.device).index_fill_(0, self.in_views, 0.0)
        self.mask = removed.view(self.views, self.tokens)  # 0 is kept, 1 is removed
        # Sorted, as a search for the ones would make a GPU wait for their number.
        order = removed.argsort(descending=True, stable=True)
        self.removed = order[: len(removed) - len(self.ids)]  # [N * L - R] rows of all views' tokens
        neighbours = self._neighbours()
        self.halos = {side: halo_index(neighbours, side) for side in (4, 2)}

    def _neighbours(self) -> Tensor:
        """[R, 3, 3]: the rows of the visible patches at and around each one, of the same view; R where there is none."""
        rows = len(self.ids)
        numbers = torch.arange(rows, device=self.ids.device)
        at = numbers.new_full((self.views * self.tokens,), rows).scatter_(0, self.in_views, numbers)
        at = F.pad(at.view(self.views, *self.grid), (1, 1, 1, 1), value=rows)
        around = at.unfold(1, 3, 1).unfold(2, 3, 1)  # [N, h, w, 3, 3]
        return around.reshape(-1, 3, 3)[self.in_views]

    def pixels(self, images: Tensor) -> Tensor:
        """The visible patches' pixels, [R, 16, 16, C], of images [B, C, H, W] whose sides are multiples of 16."""
        batch, channels = images.shape[:2]
        x = images.reshape(batch, channels, self.grid[0], STRIDE, self.grid[1], STRIDE).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(-1, STRIDE, STRIDE, channels).index_select(0, self.in_images)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Rows [R, C] view by view: one [N_i, n_i, C] for each entry of `keep`."""
        parts = rows.split([ids.numel() for ids in self.keep])
        return [part.unflatten(0, ids.shape) for part, ids in zip(parts, self.keep, strict=True)]


def encode_visible(encoder: ConvViTEncoder, images: Tensor, visible: VisiblePatches) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the three stages at visible patches; attention sees the patches of a view alone.

    Args:
        images: [B, in_chans, H, W], sides multiples of 16.
        visible: R patches.

    Returns:
        E1 as tiles [R, 4, 4, C1], E2 as tiles [R, 2, 2, C2], E3 [R, C3].
    """
    e1 = encoder.patch_embed1(visible.pixels(images))
    for block in encoder.blocks1:
        e1 = encoder.run_block(block, e1, lambda x, conv=block.attn: depthwise(x, conv, visible.halos[4]))
    e2 = encoder.patch_embed2(e1)
    for block in encoder.blocks2:
        e2 = encoder.run_block(block, e2, lambda x, conv=block.attn: depthwise(x, conv, visible.halos[2]))
    tokens = encoder.patch_embed4(encoder.patch_embed3(e2)).flatten(0, 2)
    tokens = tokens + encoder.positions(visible.grid)[0].index_select(0, visible.ids)
    stage3 = []
    for x in visible.split(tokens):
        for block in encoder.blocks3:
            x = encoder.run_block(block, x)
        stage3.append(x.flatten(0, 1))
    return e1, e2, torch.cat(stage3)
