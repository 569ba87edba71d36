"""Boundary F-score: whether outlines lie where they should (Csurka et al., BMVC 2013)."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmae.segmentation.data.layout import IGNORE

TOLERANCE = 0.0075  # share of a picture's diagonal; the paper's, 6.4 pixels at 683 x 512


class BoundaryScores(NamedTuple):
    """The classes that have a boundary in a picture's truth, and the F-score (0..1) of each."""

    labels: NDArray[np.uint8]
    scores: NDArray[np.float64]


def boundary_scores(prediction: NDArray, truth: NDArray, tolerance: float = TOLERANCE) -> BoundaryScores:
    """Returns the F-score of each class's boundary from two uint8 label maps [H, W].

    A boundary pixel of a class is one of whose four neighbours in the picture is of another class. It is right if the other
    map has a boundary pixel of the same class at most ``tolerance`` times the diagonal away: precision is the share of the
    prediction's that are right, recall that of the truth's. What the truth ignores is ignored in both maps: such pixels are
    in no boundary and make none.
    """
    of_truth, of_prediction = _boundary(truth), _boundary(np.where(truth == IGNORE, np.uint8(IGNORE), prediction))
    labels = np.flatnonzero(np.bincount(of_truth.ravel(), minlength=IGNORE)[:IGNORE])
    # Classes that the truth does not have are not scored, and an early model predicts many of them.
    scored = np.isin(np.arange(IGNORE + 1), labels)
    of_prediction = np.where(scored[of_prediction], of_prediction, np.uint8(IGNORE))
    rings = _rings(int((tolerance * float(np.hypot(*truth.shape))) ** 2))
    recall = _share_near(of_truth, of_prediction, rings)[labels]
    precision = _share_near(of_prediction, of_truth, rings)[labels]
    scores = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return BoundaryScores(labels.astype(np.uint8), scores)


def _boundary(labels: NDArray) -> NDArray:
    """Returns the label map with IGNORE at all pixels that are in no boundary."""
    edges = np.zeros(labels.shape, np.bool_)
    for of, to in ((labels, edges), (labels.T, edges.T)):
        apart = (of[1:] != of[:-1]) & (of[1:] != IGNORE) & (of[:-1] != IGNORE)
        to[1:] |= apart
        to[:-1] |= apart
    return np.where(edges, labels, np.uint8(IGNORE))


def _share_near(of: NDArray, to: NDArray, rings: list[list[tuple[int, int]]]) -> NDArray[np.float64]:
    """Returns by class [255] the share of the pixels ``of`` a boundary that have one of ``to`` within the rings; 0 of none."""
    margin = max(down for ring in rings for down, _ in ring)
    padded = np.pad(to, margin, constant_values=IGNORE)
    flat, width = padded.ravel(), padded.shape[1]
    rows, columns = np.divmod(np.flatnonzero(of != IGNORE), of.shape[1])
    places, labels = (rows + margin) * width + columns + margin, of[rows, columns]
    total = np.bincount(labels, minlength=IGNORE)
    near = np.zeros(len(labels), np.bool_)
    for ring in rings:
        for down, right in ring:
            near |= flat[places + (down * width + right)] == labels
        if 4 * np.count_nonzero(near) > len(near):  # fewer are not worth the copy
            places, labels, near = places[~near], labels[~near], np.zeros(np.count_nonzero(~near), np.bool_)
    missed = np.bincount(labels[~near], minlength=IGNORE)
    return (total - missed) / np.maximum(total, 1)


@cache
def _rings(square: int) -> list[list[tuple[int, int]]]:
    """Returns the shifts (rows, columns) of at most the root of ``square`` pixels, the shortest first, one length a list."""
    reach = range(-math.isqrt(square), math.isqrt(square) + 1)
    by_length: dict[int, list[tuple[int, int]]] = {}
    for down in reach:
        for right in reach:
            by_length.setdefault(down**2 + right**2, []).append((down, right))
    return [by_length[length] for length in sorted(by_length) if length <= square]
