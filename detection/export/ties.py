"""Whether suppression in a graph decides otherwise than in PyTorch by a tie alone: by what rounding leaves of its inputs.

Of two boxes that overlap by the threshold, or are of one score, other kernels keep another; then all that follows may differ.
It is a tie if the graph's suppression gets PyTorch's boxes and scores, but for rounding, and all that follows is what PyTorch
finds when its own suppression gets the graph's numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convmae.detection.data.dataset import Sample
from convmae.detection.export.graph import LOWEST
from convmae.detection.model.boxes import Candidates
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.pooler import poolable
from convmae.detection.model.restore import restore
from convmae.engine.export.graphs import open_inside, run
from convmae.engine.export.operators import suppress_groups
from convmae.engine.pictures.images import normalize

# How far the graph's numbers may be from PyTorch's on the same square: boxes in pixels of the square, and scores. Other kernels
# differ by a hundredth of that.
PIXELS, SCORE = 0.05, 1e-3


class Entry(NamedTuple):
    """What goes into a suppression of the graph: boxes [groups, N, 4] and scores [groups, N]."""

    boxes: Tensor
    scores: Tensor

    def above(self, least: float) -> Candidates:
        """Returns those of more than a score."""
        groups, index = torch.where(self.scores > least)
        return Candidates(self.boxes[groups, index], self.scores[groups, index], groups)


class Settled(NamedTuple):
    """PyTorch's objects with the graph's suppression, and how far what went into that is from PyTorch's."""

    found: dict[str, Any]
    boxes: float
    scores: float


def inputs_of_suppression(path: Path, image: NDArray[np.uint8]) -> list[Entry]:
    """Returns what goes into the two suppressions of a detector's graph, of proposals and of objects, for a picture."""
    numbers = [torch.from_numpy(one) for one in run(open_inside(path, "NonMaxSuppression", 2), image)]
    return [Entry(boxes, scores[:, 0]) for boxes, scores in zip(numbers[::2], numbers[1::2], strict=True)]


@torch.inference_mode()
def settled(model: DetectionModel, square: Tensor, sample: Sample, entries: list[Entry]) -> Settled | None:
    """Returns what PyTorch finds on a square [1, C, side, side] with the graph's numbers in suppression, or None: no tie."""
    network, sizes = model.model, [sample.geometry.content]
    rpn, heads = network.rpn, network.roi_heads
    pyramid = network.features(normalize(square))
    logits, deltas, anchors, counts = rpn.outputs(pyramid)
    (ours,) = rpn.candidates(logits, deltas, anchors, sizes, counts)
    proposed, found = entries
    first = _apart(ours, proposed.above(LOWEST), None)
    pairs = suppress_groups(*proposed, rpn.nms_threshold, LOWEST, rpn.post_nms.testing)
    features = [poolable(level) for level in pyramid[:-1]]
    (ours,) = heads.candidates(features, [proposed.boxes[pairs[:, 0], pairs[:, 1]]], sizes)
    second = _apart(ours, found.above(heads.score_threshold), heads.score_threshold)
    if first is None or second is None:
        return None
    labels, index = suppress_groups(*found, heads.nms_threshold, heads.score_threshold, heads.detections).unbind(1)
    kept = {"boxes": found.boxes[labels, index], "scores": found.scores[labels, index], "labels": labels}
    if heads.has_mask:
        (kept["masks"],) = heads.masks(features, [kept])
    return Settled(restore(kept, sample), *map(max, first, second))


def _apart(ours: Candidates, theirs: Candidates, least: float | None) -> tuple[float, float] | None:
    """How far boxes and scores of two are apart at most, None if one of them has a box that the other lacks.

    Left out are boxes without area but for rounding, and those of a score as near to ``least``, or to the least of a group.
    """
    worst = [0.0, 0.0]
    for group in torch.cat([ours.groups, theirs.groups]).unique():
        one, other = (Candidates(*(values[each.groups == group] for values in each)) for each in (ours, theirs))
        limit = max((float(each.scores.min()) for each in (one, other) if len(each.scores)), default=0.0)
        limit = (limit if least is None else least) + SCORE
        sure, other_sure = (
            (each.scores > limit) & ((each.boxes[:, 2:] - each.boxes[:, :2]).amin(dim=1) > PIXELS)
            for each in (one, other)
        )
        boxes = (one.boxes[:, None] - other.boxes).abs().amax(dim=2)
        scores = (one.scores[:, None] - other.scores).abs()
        near = (boxes <= PIXELS) & (scores <= SCORE)
        if not bool(near[sure].any(dim=1).all() and near[:, other_sure].any(dim=0).all()):
            return None
        for number, far in enumerate((boxes, scores)):
            nearest = far.masked_fill(~near, torch.inf)[sure]
            if nearest.numel():
                worst[number] = max(worst[number], float(nearest.amin(dim=1).max()))
    return worst[0], worst[1]
