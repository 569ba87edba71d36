"""Pictures by how their objects and the detections on them agree at IoU 0.5, and at which confidence that is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import ImageRecord
from convmae.detection.evaluation.error_kinds import Overlaps
from convmae.reports.gallery import FINE, ends_and_classes, fine
from convmae.reports.thresholds import LEVELS, Threshold


@dataclass(frozen=True)
class Rated:
    """A picture, its detections, and how they overlap with its objects."""

    record: ImageRecord
    found: dict[str, Any]
    overlaps: Overlaps

    def f1(self, confidence: float) -> float:
        """F-score of detections of at least that confidence: 1 where all is found and nothing else, as in an empty picture."""
        right, missed, wrong = self.counts(confidence)
        total = 2 * right + missed + wrong
        return 2 * right / total if total else 1.0

    def counts(self, confidence: float) -> tuple[int, int, int]:
        """Returns how many are right, missed and wrong."""
        seen = self.overlaps.above(confidence)
        match = seen.match()
        right = int((match >= 0).sum())
        return right, len(seen.truth) - right, int(((match < 0) & ~seen.in_crowd).sum())

    def classes(self) -> set[int]:
        """Returns the labels of the picture's objects."""
        return set(self.overlaps.truth.tolist())


def rate(data: CocoData, predictions: Sequence[dict[str, Any]], pictures: Mapping[int, Overlaps]) -> list[Rated]:
    """Returns all pictures in the order of ``data.images``; ``pictures`` are the overlaps of their detections by id."""
    by_id = {found["image_id"]: found for found in predictions}
    return [Rated(record, by_id[record.id], pictures[record.id]) for record in data.images]


def threshold(pictures: Mapping[int, Overlaps], classes: int, name: str = "") -> Threshold:
    """Returns how many detections are right and wrong from each confidence on.

    A detection is right whatever less sure ones there are, for the surest is matched first: one matching serves all.
    """
    right, wrong = np.zeros((2, classes, LEVELS), np.int64)
    objects = np.zeros(classes, np.int64)
    for picture in pictures.values():
        match = picture.match()
        levels = np.array([fine(score) * (LEVELS - 1) // FINE for score in picture.scores.tolist()], np.int64)
        np.add.at(right, (picture.labels[match >= 0], levels[match >= 0]), 1)
        lost = (match < 0) & ~picture.in_crowd
        np.add.at(wrong, (picture.labels[lost], levels[lost]), 1)
        np.add.at(objects, picture.truth, 1)
    return Threshold(_from_each(right), _from_each(wrong), objects, name)


def _from_each(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns how many there are at each level and above, from those at each."""
    return counts[:, ::-1].cumsum(axis=1)[:, ::-1]


def choose(rated: Sequence[Rated], confidence: float, ends: int, most: int) -> list[Rated]:
    """Returns pictures from the worst to the best: ``ends`` of each, and up to ``most`` with every class where that can be.

    Of equals, those with more mistakes or more objects found stand nearer to the ends.
    """

    def key(one: Rated) -> tuple[float, int]:
        right, missed, wrong = one.counts(confidence)
        return (one.f1(confidence), right - missed - wrong)

    ranked = sorted(rated, key=key)
    return [ranked[number] for number in ends_and_classes([one.classes() for one in ranked], ends, most)]
