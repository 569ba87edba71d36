"""Objects of a large picture from overlapping tiles of it, those across borders put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from convmae.detection.data.rle import encode_runs
from convmae.engine.errors import UserError
from convmae.engine.pictures.images import Picture, size_of

SAME = 0.5  # overlap (IoU) within what two tiles share from which two detections are of one object
INSIDE = 0.5  # part of a cut detection that lies in another one of its class, from which it is a rest of that
EDGE = 2.0  # pixels from a tile's inner border within which a detection is cut by it
SMALLEST = 32  # pixels of a tile's side

# Detections of pictures as the detector gives them, in each one's pixels.
Detect = Callable[[Sequence[Picture]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Tile:
    """A part of a picture, in pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    def shared(self, other: Tile) -> Tile | None:
        """Returns what lies in both, None where nothing does."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Tile(left, top, right, bottom) if left < right and top < bottom else None


@dataclass(frozen=True)
class Piece:
    """What a tile shows of an object; ``box`` in the picture's pixels, ``mask`` [h, w] at ``place`` (left, top) of the picture.

    cuts: whether a border of its tile inside the picture may have cut it at its left, top, right and bottom; tiles: those it
    was put together from.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    mask: NDArray[np.bool_] | None
    place: tuple[int, int]
    cuts: tuple[bool, ...]
    tiles: frozenset[int]

    @property
    def cut(self) -> bool:
        """Whether it may be a part of an object."""
        return any(self.cuts)


def detect_in_tiles(
    detect: Detect, image: Picture, side: int, overlap: float, nms_threshold: float, batch_size: int
) -> dict[str, Any]:
    """Returns the objects of a picture in the form of one of ``detect``'s results, found in tiles of ``side`` pixels.

    Two detections of neighbouring tiles are of one object where they agree on what both tiles show, whatever lies beyond it. Of
    those one that no border cuts is kept, else their boxes and masks are put together. What overlaps a surer one of its class
    is dropped, and so is the rest of an object that a border cut and another tile shows better.

    Raises UserError for tiles that can't be.
    """
    width, height = size_of(image)
    tiles = place_tiles(width, height, side, overlap)
    pieces: list[Piece] = []
    for first in range(0, len(tiles), batch_size):
        part = range(first, min(first + batch_size, len(tiles)))
        found = detect([_crop(image, tiles[number]) for number in part])
        for number, one in zip(part, found, strict=True):
            pieces += _pieces(one, tiles[number], number, (width, height))
    kept = suppress(merge(pieces, tiles), nms_threshold)
    kept.sort(key=lambda piece: -piece.score)
    merged: dict[str, Any] = {
        "boxes": torch.tensor([piece.box for piece in kept], dtype=torch.float32).view(-1, 4),
        "scores": torch.tensor([piece.score for piece in kept], dtype=torch.float32),
        "labels": torch.tensor([piece.label for piece in kept], dtype=torch.int64),
    }
    masks = [encode_runs(piece.mask, piece.place, (height, width)) for piece in kept if piece.mask is not None]
    return merged | ({"masks": masks} if len(masks) == len(kept) and pieces and pieces[0].mask is not None else {})


def place_tiles(width: int, height: int, side: int, overlap: float) -> list[Tile]:
    """Returns the tiles of a picture, which overlap by at least that part of their side; the last ones end at its edges.

    Raises UserError for a side under ``SMALLEST`` or an overlap outside 0 to 0.9.
    """
    if side < SMALLEST:
        raise UserError(f"tile is {side} pixels; expected at least {SMALLEST}.")
    if not 0 <= overlap <= 0.9:
        raise UserError(f"overlap is {overlap:g}; expected a part of the tile's side from 0 to 0.9.")
    step = side - round(side * overlap)
    return [
        Tile(left, top, min(left + side, width), min(top + side, height))
        for top in _starts(height, side, step)
        for left in _starts(width, side, step)
    ]


def merge(pieces: Sequence[Piece], tiles: Sequence[Tile]) -> list[Piece]:
    """Returns one piece for each object: those are put together, best agreement first, that agree where their tiles overlap.

    No object has two pieces of one tile, in which the detector told them apart.
    """
    agreements = sorted(_agreements(pieces, tiles), key=lambda found: -found[0])
    group = list(range(len(pieces)))
    members = {number: [number] for number in group}
    for _, one, other in agreements:
        mine, theirs = group[one], group[other]
        both = members[mine] + members[theirs]
        if mine == theirs or sum(len(pieces[number].tiles) for number in both) > len(
            frozenset.union(*(pieces[number].tiles for number in both))
        ):
            continue
        members[mine] = both
        for number in members.pop(theirs):
            group[number] = mine
    return [_together([pieces[number] for number in some]) for some in members.values()]


def suppress(pieces: Sequence[Piece], nms_threshold: float) -> list[Piece]:
    """Returns pieces without those that overlap a surer one of their class, and without rests of what another one shows."""
    ordered = sorted(pieces, key=lambda piece: (piece.cut, -piece.score))  # whole objects first
    boxes = np.array([piece.box for piece in ordered], dtype=np.float64).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    labels = np.array([piece.label for piece in ordered], dtype=np.int64)
    kept = np.zeros(len(ordered), dtype=bool)
    for number, piece in enumerate(ordered):
        corners = np.maximum(boxes[:, :2], boxes[number, :2]), np.minimum(boxes[:, 2:], boxes[number, 2:])
        inside = (corners[1] - corners[0]).clip(min=0).prod(axis=1)
        rest = piece.cut & (inside > INSIDE * areas[number])
        rivals = kept & (labels == piece.label) & (rest | (inside > nms_threshold * (areas + areas[number] - inside)))
        kept[number] = all(piece.tiles & ordered[other].tiles for other in np.flatnonzero(rivals).tolist())
    return [ordered[number] for number in np.flatnonzero(kept).tolist()]


def _starts(length: int, side: int, step: int) -> list[int]:
    count = max(0, -(-(length - side) // step)) + 1
    return [max(0, min(number * step, length - side)) for number in range(count)]


def _crop(image: Picture, tile: Tile) -> Picture:
    if isinstance(image, torch.Tensor):
        return image[:, tile.top : tile.bottom, tile.left : tile.right]
    return image.crop((tile.left, tile.top, tile.right, tile.bottom))


def _pieces(found: dict[str, Any], tile: Tile, number: int, size: tuple[int, int]) -> Iterator[Piece]:
    """Yields the detections of a tile in the picture's pixels; ``size``: the picture's width and height."""
    inner = tile.left > 0, tile.top > 0, tile.right < size[0], tile.bottom < size[1]
    width, height = tile.right - tile.left, tile.bottom - tile.top
    scores, labels = found["scores"].tolist(), found["labels"].tolist()
    for index, (left, top, right, bottom) in enumerate(found["boxes"].tolist()):
        near = left < EDGE, top < EDGE, right > width - EDGE, bottom > height - EDGE
        mask, place = None, (0, 0)
        if "masks" in found:
            mask, place = _cut_out(found["masks"][index], tile)
        yield Piece(
            (left + tile.left, top + tile.top, right + tile.left, bottom + tile.top),
            scores[index],
            labels[index],
            mask,
            place,
            tuple(touches and inside for touches, inside in zip(near, inner, strict=True)),
            frozenset([number]),
        )


def _cut_out(rle: dict[str, Any], tile: Tile) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Returns the part of a tile's mask that holds its pixels, and its left and top in the picture."""
    left, top, width, height = (int(value) for value in mask_api.toBbox(rle))
    mask = mask_api.decode(rle)[top : top + height, left : left + width].astype(bool)
    return mask, (left + tile.left, top + tile.top)


def _agreements(pieces: Sequence[Piece], tiles: Sequence[Tile]) -> Iterator[tuple[float, int, int]]:
    """Yields the overlap, within what their tiles share, of two pieces of one class, where it is ``SAME`` or more."""
    of_tile: dict[int, list[int]] = {}
    for number, piece in enumerate(pieces):
        of_tile.setdefault(next(iter(piece.tiles)), []).append(number)
    for one, other in combinations(sorted(of_tile), 2):
        shared = tiles[one].shared(tiles[other])
        if shared is None:
            continue
        inside = [[n for n in of_tile[tile] if _reaches(pieces[n].box, shared)] for tile in (one, other)]
        for first in inside[0]:
            for second in inside[1]:
                if pieces[first].label == pieces[second].label:
                    overlap = _overlap(pieces[first], pieces[second], shared)
                    if overlap >= SAME:
                        yield overlap, first, second


def _reaches(box: Sequence[float], tile: Tile) -> bool:
    return box[0] < tile.right and box[2] > tile.left and box[1] < tile.bottom and box[3] > tile.top


def _overlap(one: Piece, other: Piece, shared: Tile) -> float:
    """Returns the IoU of two pieces within a part of the picture: of their masks, else of their boxes."""
    corners = (shared.left, shared.top, shared.right, shared.bottom)
    clipped = [
        (max(box[0], corners[0]), max(box[1], corners[1]), min(box[2], corners[2]), min(box[3], corners[3]))
        for box in (one.box, other.box)
    ]
    union = (
        min(clipped[0][0], clipped[1][0]), min(clipped[0][1], clipped[1][1]),
        max(clipped[0][2], clipped[1][2]), max(clipped[0][3], clipped[1][3]),
    )  # fmt: skip
    common = (
        min(clipped[0][2], clipped[1][2]) - max(clipped[0][0], clipped[1][0]),
        min(clipped[0][3], clipped[1][3]) - max(clipped[0][1], clipped[1][1]),
    )
    if min(common) <= 0:
        return 0.0
    if one.mask is None or other.mask is None:
        areas = [(right - left) * (bottom - top) for left, top, right, bottom in clipped]
        return common[0] * common[1] / (sum(areas) - common[0] * common[1])
    left, top = (max(int(np.floor(union[axis])), corners[axis]) for axis in (0, 1))
    right, bottom = (min(int(np.ceil(union[axis])), corners[axis]) for axis in (2, 3))
    first, second = (_window(piece, left, top, right, bottom) for piece in (one, other))
    total = int((first | second).sum())
    return int((first & second).sum()) / total if total else 0.0


def _window(piece: Piece, left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    """Returns a piece's mask within a part of the picture."""
    canvas = np.zeros((bottom - top, right - left), dtype=bool)
    if piece.mask is None:
        return canvas
    x, y = piece.place
    height, width = piece.mask.shape
    x0, y0, x1, y1 = max(left, x), max(top, y), min(right, x + width), min(bottom, y + height)
    if x0 < x1 and y0 < y1:
        canvas[y0 - top : y1 - top, x0 - left : x1 - left] = piece.mask[y0 - y : y1 - y, x0 - x : x1 - x]
    return canvas


def _together(pieces: Sequence[Piece]) -> Piece:
    """Returns one object: the surest piece that no border cuts, or where each is cut all of them in one."""
    tiles = frozenset.union(*(piece.tiles for piece in pieces))
    best = max(pieces, key=lambda piece: (not piece.cut, piece.score))
    score = max(piece.score for piece in pieces)
    if not best.cut or len(pieces) == 1:
        return replace(best, score=score, tiles=tiles)
    left, top = (min(piece.box[axis] for piece in pieces) for axis in (0, 1))
    right, bottom = (max(piece.box[axis] for piece in pieces) for axis in (2, 3))
    cuts = tuple(  # where all pieces that reach so far are
        all(piece.cuts[axis] for piece in pieces if abs(piece.box[axis] - end) < EDGE)
        for axis, end in enumerate((left, top, right, bottom))
    )
    mask, place = None, (0, 0)
    if best.mask is not None:
        shown = [piece for piece in pieces if piece.mask is not None and piece.mask.size]
        place = (min((p.place[0] for p in shown), default=0), min((p.place[1] for p in shown), default=0))
        ends = [(p.place[0] + p.mask.shape[1], p.place[1] + p.mask.shape[0]) for p in shown if p.mask is not None]
        x1, y1 = max((x for x, _ in ends), default=place[0]), max((y for _, y in ends), default=place[1])
        mask = np.zeros((y1 - place[1], x1 - place[0]), dtype=bool)
        for piece in shown:
            mask |= _window(piece, place[0], place[1], x1, y1)
    return Piece((left, top, right, bottom), score, best.label, mask, place, cuts, tiles)
