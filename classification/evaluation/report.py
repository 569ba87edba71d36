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
from convmae.reports.gallery import ends_and_classes
from convmae.reports.intervals import ANY_SCORE, ends, intervals, with_interval
from convmae.reports.page import Number, Page, Picture, Share
from convmae.reports.plots import curves, matrix
from convmae.reports.run_page import add_feeding, add_remarks, add_run, add_unread

PICTURES = 12  # of the surest mistakes and of the surest right predictions
MOST = 60  # pictures on the page, with those of classes that these don't hold
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
            if label != "Top-5" or top5_tells(details.classes)
        ]
    )
    if sureness:
        page.text("How sure the numbers are", ANY_SCORE)
    return page


def top5_tells(classes: Sequence[str]) -> bool:
    """Whether top-5 says anything: of five classes or fewer it is always 100 %."""
    return len(classes) > 5


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
        kinds = {"top-1": "top1", "top-5": "top5"} if top5_tells(details.classes) else {"top-1": "top1"}
        page.validation(rows, kinds, "accuracy")
        add_feeding(page, rows)
    _add_confusion(page, details)
    _add_pictures(page, details, splits[-1])
    page.facts("Data", {split.root.name: split.describe() for split in splits})
    add_remarks(page, {str(split.root): split.remarks for split in splits})
    told = add_unread(page, unread or {})
    add_run(page, config, weights, seconds)
    sureness = ends(intervals(numbers, details.resampled))
    return page.save({**numbers, "intervals": sureness, "classes": dict(accuracies), **told}, work_dir)


def _add_classes(page: Page, details: Details) -> None:
    truth, predicted = details.confusion.sum(axis=1), details.confusion.sum(axis=0)
    rows: list[list[str | float | None]] = [
        [name, Share(accuracy), int(true), int(guess)]
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
    cells = np.ix_(kept, kept)
    page.figure("Confusion matrix", matrix(shares[cells], names, counts=details.confusion[cells]), caption)


def _add_pictures(page: Page, details: Details, split: ClassFolder) -> None:
    """Adds the surest mistakes, then right predictions up to the surest; of each class some, where that can be."""
    wrong = sorted(
        (found for found in details.predictions if found.top[0] != found.label), key=lambda found: -found.score
    )
    right = sorted(
        (found for found in details.predictions if found.top[0] == found.label), key=lambda found: found.score
    )
    ranked = [*wrong, *right]
    chosen = ends_and_classes([{found.label, found.top[0]} for found in ranked], PICTURES, MOST)
    chosen = sorted({*chosen, *range(min(len(wrong), 2 * PICTURES))})
    if chosen:
        page.pictures(
            "Pictures",
            [_picture(ranked[place], details.classes, split) for place in chosen],
            f"{len(chosen)} of {len(ranked):,} validation pictures: of the {len(wrong):,} wrong predictions the surest, of the "
            f"{len(right):,} right ones the {PICTURES} surest, and some of classes that these don't hold. A class's pictures "
            "are those of it and those taken for it.",
            columns=6,
            classes=details.classes,
            ranked=True,
        )


def _picture(found: Prediction, classes: list[str], split: ClassFolder) -> Picture:
    path = split.pictures[found.picture][0]
    image = as_rgb(read_image(path, split.reading))
    scale = SHOWN / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    said = f"taken for {shown(classes[found.top[0]])}" if found.top[0] != found.label else "right"
    caption = f"{shown(classes[found.label])}, {said} ({100 * found.score:.0f} %)"
    return Picture(image, caption, path, classes=sorted({found.label, found.top[0]}))
