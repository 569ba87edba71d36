"""How detections do at each confidence from which they are counted: what a page's slider moves through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 101  # confidences 0.00, 0.01, ..., 1.00


@dataclass(frozen=True)
class Threshold:
    """Right and wrong detections of at least each confidence, [classes, LEVELS], and the objects of each class, [classes]."""

    right: NDArray[np.int64]
    wrong: NDArray[np.int64]
    objects: NDArray[np.int64]
    name: str = ""  # whose detections, where there are several models

    @property
    def best(self) -> int:
        """The level of the best F1, the highest of equals; where nothing is right, that of as many detections as objects."""
        right, wrong = self.right.sum(axis=0), self.wrong.sum(axis=0)
        if right.any():
            return int(LEVELS - 1 - self.f1()[::-1].argmax())
        enough = np.flatnonzero(right + wrong >= min(self.objects.sum(), (right + wrong)[0]))
        return int(enough[-1])

    @property
    def what(self) -> str:
        """What is marked."""
        return "best F1" if self.right.any() else "as many as objects"

    @property
    def confidence(self) -> float:
        """The confidence at the level that is marked."""
        return self.best / (LEVELS - 1)

    def precision(self) -> NDArray[np.float64]:
        """Returns the part of the detections that is right at each level, over all classes; nan where there is none."""
        found = (self.right + self.wrong).sum(axis=0)
        return np.divide(self.right.sum(axis=0), found, out=np.full(LEVELS, np.nan), where=found > 0)

    def recall(self) -> NDArray[np.float64]:
        """Returns the part of the objects that is found at each level, over all classes; nan without objects."""
        total = np.full(LEVELS, self.objects.sum())
        return np.divide(self.right.sum(axis=0), total, out=np.full(LEVELS, np.nan), where=total > 0)

    def f1(self) -> NDArray[np.float64]:
        """Returns the harmonic mean of precision and recall at each level, over all classes; 0 where nothing is right."""
        total = (self.right + self.wrong).sum(axis=0) + self.objects.sum()
        return np.asarray(2 * self.right.sum(axis=0) / np.maximum(total, 1))

    def describe(self, level: int) -> str:
        """Returns what the slider says at a level."""
        right, wrong = int(self.right[:, level].sum()), int(self.wrong[:, level].sum())
        return describe(right, wrong, int(self.objects.sum()) - right)


def describe(right: int, wrong: int, missed: int) -> str:
    """Returns counts and the shares that they make, as the page's script writes them, too."""
    f1 = f"F1 {_percent(2 * right, 2 * right + wrong + missed)}"
    shares = f"precision {_percent(right, right + wrong)}, recall {_percent(right, right + missed)}"
    return f"{f1}, {shares}: {tally(right, missed, wrong)}"


def tally(right: int, missed: int, wrong: int) -> str:
    """Returns counts in words."""
    return f"{right:,} right, {missed:,} missed, {wrong:,} wrong"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
