"""Masks as COCO's compressed run lengths, in array operations, which leave Python's lock to other threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LETTERS = 7  # of five bits each, enough for a run of 2**31 pixels


def encode(masks: Tensor) -> list[dict[str, Any]]:
    """Returns bool masks [N, H, W] as pycocotools' ``encode`` does, with ``counts`` as text.

    From a GPU edges alone are copied.
    """
    number, height, width = masks.shape
    if not number:
        return []
    pixels = masks.transpose(1, 2).flatten(1)  # runs go down the columns
    edges = torch.ones((number, pixels.shape[1] + 1), dtype=torch.bool, device=masks.device)  # the last one ends a mask
    edges[:, 0] = pixels[:, 0]  # runs start with zeros, be there none
    torch.ne(pixels[:, 1:], pixels[:, :-1], out=edges[:, 1:-1])
    flat = edges.flatten()
    # On a CPU NumPy's search is several times as fast as PyTorch's.
    places = flat.nonzero()[:, 0].cpu().numpy() if flat.is_cuda else np.flatnonzero(flat.numpy())
    mask, place = np.divmod(places, edges.shape[1])
    counts = np.bincount(mask, minlength=number)
    return [{"size": [height, width], "counts": text} for text in _compress(place, counts)]


def _compress(places: NDArray[np.int64], counts: NDArray[np.int64]) -> list[str]:
    """Returns the text of each mask. places: its edges, in order, those of all masks one after the other; counts: how many."""
    starts = np.cumsum(counts) - counts
    runs = np.diff(places, prepend=0)
    runs[starts] = places[starts]
    # From the fourth run on, the difference from the run of the same colour before it.
    later = np.arange(len(runs)) - np.repeat(starts, counts) > 2
    left = runs.copy()
    left[later] -= np.roll(runs, 2)[later]
    # Five bits a letter, the lowest first; a sixth says that more follow. Negative numbers are done at -1 with their sign told.
    letters = np.zeros((len(runs), _LETTERS), np.uint8)
    going = np.arange(len(runs))
    for letter in range(_LETTERS):
        low = left[going] & 31
        left[going] >>= 5
        more = left[going] != np.where(low & 16, -1, 0)
        letters[going, letter] = low + 32 * more + 48
        going = going[more]
    used = letters > 0
    ends = np.cumsum(np.add.reduceat(used.sum(axis=1), starts)).tolist()
    text = letters[used].tobytes().decode()
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def encode_runs(mask: NDArray[np.bool_], place: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """Returns a mask [h, w] that lies at ``place`` (left, top) of a picture as the picture's compressed run lengths.

    size: height and width of the picture, of which nothing else is made: a large one may have thousands of masks.
    """
    height, width = size
    down = np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8)  # a run ends with its column
    column, row = np.nonzero(np.diff(down, axis=1))
    edges = (column + place[0]) * height + row + place[1]
    places, times = np.unique(edges, return_counts=True)
    places = places[times == 1]  # elsewhere a run ends where the next column's begins
    if not len(places) or places[-1] != height * width:
        places = np.append(places, height * width)
    return {"size": [height, width], "counts": _compress(places, np.array([len(places)]))[0]}
