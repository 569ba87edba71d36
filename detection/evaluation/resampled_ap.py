"""AP on pictures drawn anew from a split, from matches that are made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmae.detection.evaluation.coco_scores import COUNTED, coco_evaluation
from convmae.engine.machine.forks import threads_of
from convmae.reports.intervals import resamples

WHOLE = [0.0, 1e10]  # square pixels: objects of all sizes, as COCO says it
THRESHOLDS = 10
# Recall levels that COCO's rounding puts above the hundredth that they stand for: that much alone doesn't reach them.
STRICT = np.linspace(0, 1, 101) > np.arange(101) / 100


@dataclass(frozen=True)
class ClassMatches:
    """A class's G objects (crowds apart) and D detections, surest first, each by its picture's place in the split.

    right, ignored (in a crowd): of each IoU threshold the places among the detections, ascending.
    """

    objects: NDArray[np.int64]
    found: NDArray[np.int64]
    right: list[NDArray[np.int64]]
    ignored: list[NDArray[np.int64]]

    def ap(self, drawn: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns AP [B, thresholds] where each of P pictures counts as often as drawn: [P, B]; nan without an object."""
        total, seen = drawn[self.objects].sum(axis=0), np.cumsum(drawn[self.found], axis=0)
        values = [
            self._at(drawn, seen, np.maximum(total, 1), right, ignored)
            for right, ignored in zip(self.right, self.ignored, strict=True)
        ]
        return np.where(total[:, None] > 0, np.stack(values, axis=1), np.nan)

    def _at(
        self,
        drawn: NDArray[np.float32],
        seen: NDArray[np.float32],
        total: NDArray[np.float32],
        right: NDArray[np.int64],
        ignored: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Returns AP [B] at one threshold. Precision is largest where a detection is right, so that it is taken there alone."""
        if not len(right):
            return np.zeros(drawn.shape[1])
        hits, seen = np.cumsum(drawn[self.found[right]], axis=0), seen[right]
        if len(ignored):
            crowded = np.cumsum(drawn[self.found[ignored]], axis=0)
            before = np.searchsorted(ignored, right)
            seen -= np.where(before[:, None] > 0, crowded[before - 1], 0)
        precision = np.maximum.accumulate((hits / np.maximum(seen, 1))[::-1], axis=0)[::-1]
        recall = 100 * hits / total
        reached = np.floor(recall)
        ties = np.nonzero(reached == recall)
        reached[ties] -= STRICT[reached[ties].astype(np.int64)]
        levels = np.diff(reached, axis=0, prepend=-1)
        return np.einsum("kb,kb->b", precision, levels, dtype=np.float64) / len(STRICT)


@threads_of("hotcoco")
def match_classes(truth: dict[str, Any], rows: Sequence[dict[str, Any]], kind: str) -> list[ClassMatches]:
    """Returns what COCO's evaluation matches of each class that a picture holds or a detection names; kind: bbox or segm."""
    evaluation = coco_evaluation(truth, rows, kind)
    options, found = evaluation.params, []
    options.area_rng, options.area_rng_lbl, options.max_dets = [WHOLE], ["all"], [COUNTED]
    for label in range(
        len(truth["categories"])
    ):  # one at a time: what the library hands out of a picture takes kilobytes
        options.cat_ids = [label]
        evaluation.params = options
        evaluation.evaluate()
        pictures = [picture for picture in evaluation.eval_imgs if picture is not None]
        if pictures:
            found.append(_gather(sorted(pictures, key=lambda one: one["image_id"])))
    return found


def resampled_ap(truth: dict[str, Any], rows: Sequence[dict[str, Any]], kind: str) -> dict[str, NDArray[np.float64]]:
    """Returns ``mAP``, ``AP50`` and ``AP75`` of boxes or masks on each of ``resamples``, nan where no object was drawn.

    A class without an object in a resample is left out of its mean, as COCO leaves it out.
    """
    classes, values = match_classes(truth, rows, kind), []
    for drawn in resamples(len(truth["images"])):
        total, known = np.zeros((drawn.shape[1], THRESHOLDS)), np.zeros((drawn.shape[1], 1))
        for one in classes:
            if len(one.objects):
                ap = one.ap(drawn)
                total, known = total + np.nan_to_num(ap), known + ~np.isnan(ap[:, :1])
        values.append(np.divide(total, known, out=np.full(total.shape, np.nan), where=known > 0))
    ap = np.concatenate(values)
    return {f"{kind}_mAP": ap.mean(axis=1), f"{kind}_AP50": ap[:, 0], f"{kind}_AP75": ap[:, 5]}


def _gather(pictures: Sequence[dict[str, Any]]) -> ClassMatches:
    scores = np.concatenate([np.asarray(one["dtScores"], dtype=np.float64) for one in pictures])
    order = np.argsort(-scores, kind="stable")
    places = [one["image_id"] for one in pictures]
    found = np.repeat(places, [len(one["dtScores"]) for one in pictures])[order]
    matched, ignored = (
        np.concatenate([np.asarray(one[key], dtype=bool).reshape(THRESHOLDS, -1) for one in pictures], axis=1)[:, order]
        for key in ("dtMatched", "dtIgnore")
    )
    return ClassMatches(
        np.repeat(places, [len(one["gtIgnore"]) - sum(map(bool, one["gtIgnore"])) for one in pictures]),
        found,
        [np.flatnonzero(row) for row in matched & ~ignored],
        [np.flatnonzero(row) for row in ignored],
    )
