"""The base of the tasks' metrics."""

from __future__ import annotations

from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric

from convmae.engine.processes import gather_samples, tell_all


class PictureMetric(BaseMetric):
    """A metric from one result a picture: over several processes each counts once, and all of them learn the numbers.

    A task gives ``process``, which appends to ``results``, and ``compute_metrics``, which runs on the first process.
    """

    default_prefix = ""  # metrics are called mIoU, not prefix/mIoU
    numbers: dict[str, float] = {}  # noqa: RUF012  (of the last evaluation)

    def evaluate(self, size: int) -> dict[str, float]:
        """Returns the numbers of ``size`` pictures and forgets their results."""
        results = gather_samples(self.results, size)
        self.results.clear()
        self.numbers = tell_all(self.compute_metrics(results) if is_main_process() else None)
        return self.numbers
