"""The report page of a classification run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convmae.classification.data.dataset import ClassFolder
from convmae.classification.evaluation.accuracy import Details, Prediction
from convmae.engine.pictures.images import as_rgb, read_image
from convmae.engine.text import distinct, shown
from convmae.engine.training.scalars import read_scalars
from convmae.reports.intervals import ANY_SCORE, ends, intervals, with_interval
from convmae.reports.page import Number, Page, Picture
from convmae.reports.plots import curves, matrix
from convmae.reports.run_page import add_remarks, add_run, add_unread

PICTURES = 12
SHOWN = 320  # pixels of a picture's longer side
MATRIX_CLASSES = 30  # more names than this can't be read along an axis


def start_page(title: str, subtitle: str, numbers: dict[str, float], details: Details) -> Page:
    """Returns a page with the headline numbers, on which a run may put what is its own before ``write_report``."""
    page = Page(title, subtitle)
    notes = {
        "Top-1": ("top1", f"of {len(details.predictions):,} validation pictures"),
        "Top-5": ("top5", "the class is among the five best"),
        "Class mean": ("class_mean", "top-1, each class weighing the same"),
    }
    sureness = intervals(numbers, details.resampled)
    page.headline(
        [
            Number(label, f"{100 * numbers[name]:.2f} %", with_interval(note, sureness.get(name)))
            for label, (name, note) in notes.items()
        ]
    )
    if sureness:
        page.text("How sure the numbers are", ANY_SCORE)
    return page


def write_report(
    page: Page,
    numbers: dict[str, float],
    details: Details,
    config: Any,
    splits: Sequence[ClassFolder],
    work_dir: Path,
    seconds: float,
    weights: Path,
    unread: Mapping[str, str] | None = None,
) -> list[Path]:
    """Adds what all classification runs report to ``page``, writes it and ``metrics.json``; returns their paths."""
    accuracies = zip(distinct(details.classes), details.accuracy.tolist(), strict=True)
    _add_classes(page, details)
    rows = read_scalars(work_dir)
    if rows:
        page.figure("Loss", curves(rows, {"loss": "loss"}, "cross-entropy"))
        page.validation(rows, {"top-1": "top1", "top-5": "top5"}, "accuracy, 0 to 1")
    _add_confusion(page, details)
    _add_mistakes(page, details, splits[-1])
    page.facts("Data", {split.root.name: split.describe() for split in splits})
    add_remarks(page, {str(split.root): split.remarks for split in splits})
    told = add_unread(page, unread or {})
    add_run(page, config, weights, seconds)
    sureness = ends(intervals(numbers, details.resampled))
    return page.save({**numbers, "intervals": sureness, "classes": dict(accuracies), **told}, work_dir)


def _add_classes(page: Page, details: Details) -> None:
    truth, predicted = details.confusion.sum(axis=1), details.confusion.sum(axis=0)
    rows: list[list[str | float]] = [
        [name, float(accuracy), int(true), int(guess)]
        for name, accuracy, true, guess in zip(details.classes, details.accuracy, truth, predicted, strict=True)
    ]
    page.table("Classes", ["class", "accuracy", "pictures", "predicted"], rows, "A dash: the class has no pictures.")


def _add_confusion(page: Page, details: Details) -> None:
    truth = details.confusion.sum(axis=1)
    shares = details.confusion / np.maximum(truth[:, None], 1)
    wrong = details.confusion - np.diag(np.diag(details.confusion))
    # Where not all fit, those that are confused most.
    kept = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:MATRIX_CLASSES])
    names = [details.classes[index] for index in kept]
    caption = "Each row is a true class and adds up to 100 % over all classes: where its pictures went."
    if len(kept) < len(details.classes):
        caption += f" The {len(kept)} classes of {len(details.classes)} that are confused most."
    page.figure("Confusion matrix", matrix(shares[np.ix_(kept, kept)], names), caption)


def _add_mistakes(page: Page, details: Details, split: ClassFolder) -> None:
    wrong = sorted(
        (found for found in details.predictions if found.top[0] != found.label), key=lambda found: -found.score
    )
    if wrong:
        pictures = [_picture(found, details.classes, split) for found in wrong[:PICTURES]]
        page.pictures("Surest mistakes", pictures, f"{len(pictures)} of {len(wrong)} wrong predictions, surest first.")


def _picture(found: Prediction, classes: list[str], split: ClassFolder) -> Picture:
    image = as_rgb(read_image(split.pictures[found.picture][0], split.reading))
    scale = SHOWN / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    return Picture(
        image, f"{shown(classes[found.label])}, taken for {shown(classes[found.top[0]])} ({found.score:.0%})"
    )
