"""Where an encoder's transformer attends, as heat on the picture: from chosen patches, and to each patch on the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from convmae.backbones import ConvViTEncoder
from convmae.backbones.encoder import Encoder
from convmae.backbones.layers import TransformerBlock
from convmae.backbones.position import Grid
from convmae.pretraining.evaluation.reconstructions import to_picture
from convmae.pretraining.patches import PATCH
from convmae.reports.drawing import INK, Colour, column, draw_boxes, row

MARK: Colour = (70, 225, 255)  # not among the heat's colours


class AttentionMaps(NamedTuple):
    """Softmax weights of one block on one picture, between its patches (a class token is left out)."""

    queries: list[Grid]  # row and column of each chosen patch
    weights: Tensor  # [Q, heads, rows, columns], of each chosen patch
    received: Tensor  # [rows, columns], mean over all patches that attend and over heads
    block: str


def spread_queries(grid: Grid) -> list[Grid]:
    """Returns the patch at the centre of a grid and those at the centres of its quarters; fewer where the grid is small."""
    quarters = [(2, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    return list(dict.fromkeys((grid[0] * down // 4, grid[1] * across // 4) for down, across in quarters))


@torch.inference_mode()
def attention_maps(
    encoder: Encoder, image: Tensor, queries: Sequence[Grid] = (), block: int | None = None
) -> AttentionMaps:
    """Returns attention in a block of stage 3, or of a plain ViT, on a normalised picture [C, H, W], nothing masked.

    Args:
        encoder: one without position bias and windows, as it is pretrained.
        image: normalised, any height and width.
        queries: row and column of patches, from 0; none given: `spread_queries`.
        block: from 0; None for the last.

    Raises:
        ValueError: a block or a patch that does not exist.
    """
    name = "blocks3" if isinstance(encoder, ConvViTEncoder) else "blocks"
    blocks = getattr(encoder, name)
    index = len(blocks) - 1 if block is None else block
    if not 0 <= index < len(blocks):
        raise ValueError(f"there is no block {index}; expected 0 to {len(blocks) - 1}")
    rows, columns = (-(-side // PATCH) for side in image.shape[1:])
    chosen = list(queries) or spread_queries((rows, columns))
    for row_, column_ in chosen:
        if not (0 <= row_ < rows and 0 <= column_ < columns):
            raise ValueError(
                f"there is no patch {row_},{column_} in a grid of {rows} x {columns}; expected a row of 0 to {rows - 1} "
                f"and a column of 0 to {columns - 1}"
            )
    images = image[None].to(next(encoder.parameters()).device)
    query, key = queries_and_keys(blocks[index], lambda: encoder.forward_features(images))
    first = query.shape[2] - rows * columns  # after the class token, where there is one
    places = [first + row_ * columns + column_ for row_, column_ in chosen]
    weights = attention_weights(query[0, :, places], key[0])[..., first:].transpose(0, 1)
    # Head by head: all weights of a large picture would not fit.
    by_head = [attention_weights(q[first:], k)[:, first:].mean(0) for q, k in zip(query[0], key[0], strict=True)]
    received = torch.stack(by_head).mean(0)
    grid = (rows, columns)
    return AttentionMaps(
        chosen, weights.unflatten(-1, grid).cpu(), received.unflatten(0, grid).cpu(), f"{name}.{index}"
    )


def queries_and_keys(block: TransformerBlock, run: Callable[[], object]) -> tuple[Tensor, Tensor]:
    """Returns the queries and keys, each [B, heads, L, D], of a block that `run` passes tokens through."""
    found: list[tuple[Tensor, Tensor]] = []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found.append((query.float(), key.float()))
        return F.scaled_dot_product_attention(query, key, value)

    hook = block.register_forward_pre_hook(lambda _, given: (given[0], attend))
    try:
        run()
    finally:
        hook.remove()
    return found[0]


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """Returns the softmax weights [..., Q, L] that queries [..., Q, D] give to keys [..., L, D]."""
    return (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1)


def attention_sheet(image: Tensor, maps: AttentionMaps) -> Image.Image:
    """Returns the picture [C, H, W] with the queries marked beside the attention received, and a row for each query.

    A row has the mean over heads, then each head at half the size.
    """
    numbers = [str(number) for number in range(1, len(maps.queries) + 1)]
    first = [_mark(to_picture(image), image, maps.queries, numbers), _heat(image, maps.received)]
    received = f"attention received: mean over all queries and heads, {_peak(maps.received)}"
    rows = [row(first, ["input with the query patches", received])]
    for number, query, heads in zip(numbers, maps.queries, maps.weights, strict=True):
        mean, *each = (_mark(_heat(image, found), image, [query], [""]) for found in (heads.mean(0), *heads))
        where = f"query {number} (row {query[0]}, column {query[1]})"
        captions = [f"{where}: mean over heads, {_peak(heads.mean(0))}", f"heads 1 to {len(heads)}, row by row"]
        rows.append(row([mean, _halved(each)], captions))
    return column(rows, f"attention in {maps.block}, each map scaled to its own peak")


def _peak(weights: Tensor) -> str:
    return f"peak {weights.max() * weights.numel():.1f} x uniform"


def _heat(image: Tensor, weights: Tensor) -> Image.Image:
    """Weights [rows, columns] as heat on the picture in grey, each patch a square."""
    picture = to_picture(image)
    scaled = (weights / weights.max()).repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)
    shown = Image.fromarray(scaled[: image.shape[1], : image.shape[2]].numpy())
    strength = np.asarray(shown.resize(picture.size, Image.Resampling.NEAREST))
    colours = 255 * matplotlib.colormaps["inferno"](strength)[..., :3]
    grey = 0.6 * np.asarray(picture.convert("L"), np.float32)[..., None]
    opacity = 0.25 + 0.6 * strength[..., None]
    return Image.fromarray((grey + opacity * (colours - grey)).round().astype(np.uint8))


def _mark(picture: Image.Image, image: Tensor, patches: Sequence[Grid], labels: Sequence[str]) -> Image.Image:
    scale = PATCH * picture.height / image.shape[1]
    boxes = [[left * scale, top * scale, (left + 1) * scale, (top + 1) * scale] for top, left in patches]
    drawn = draw_boxes(picture, boxes, labels, colors=[MARK] * len(boxes))
    return drawn.resize(picture.size, Image.Resampling.BICUBIC)


def _halved(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures at half their size in two rows, together as high as one of them."""
    width, height = (side // 2 for side in pictures[0].size)
    across = math.ceil(len(pictures) / 2)
    sheet = Image.new("RGB", (across * width, pictures[0].height), INK)
    for number, picture in enumerate(pictures):
        small = picture.resize((width - 2, height - 2), Image.Resampling.BICUBIC)
        sheet.paste(small, (number % across * width, number // across * height))
    return sheet
