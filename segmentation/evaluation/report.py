"""The report page of a segmentation run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from convmae.engine.faults import Tally
from convmae.engine.machine.memory import describe_peak
from convmae.engine.machine.precision import resolve_device
from convmae.engine.options import describe_views
from convmae.engine.training.scalars import read_scalars
from convmae.reports.gallery import ends_and_classes
from convmae.reports.intervals import ANY_SCORE, ends, intervals, with_interval
from convmae.reports.page import Number, Page, Share
from convmae.reports.plots import curves, matrix
from convmae.reports.run_page import add_feeding, add_remarks, add_run, add_unread
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.found import Found
from convmae.segmentation.data.layout import Pair
from convmae.segmentation.evaluation.boundary import TOLERANCE
from convmae.segmentation.evaluation.drawn_pairs import Shown, add_pictures
from convmae.segmentation.evaluation.predictions_file import decode, write_predictions
from convmae.segmentation.evaluation.resampled_scores import resampled_scores
from convmae.segmentation.evaluation.scores import Details, SegmentationMetric

PICTURES = 12  # of the worst, and as many of the best
MOST = 30  # pictures on the page, with those of classes that the worst and the best don't hold
MATRIX_CLASSES = 30  # more names than this can't be read along an axis
MEANINGS = {
    "mIoU": "intersection over union, mean of the classes",
    "mAcc": "part of a class's pixels found, mean of the classes",
    "aAcc": "part of all labelled pixels right",
    "mFscore": "F-score of pixels (Dice), mean of the classes",
    "mBoundaryF": f"F-score of boundaries within {100 * TOLERANCE:g} % of the diagonal, mean of the classes",
}


def write_report(
    metric: SegmentationMetric,
    config: SegmentationConfig,
    found: Sequence[Found],
    work_dir: Path,
    seconds: float,
    weights: Path,
    unread: Mapping[str, str] | None = None,
) -> tuple[Page, list[Path]]:
    """Writes ``metrics.json``, ``predictions.zip`` and ``report/index.html`` from the metric's last evaluation.

    ``found`` are the splits, the evaluated one last. Returns the page and the paths.
    """
    details = metric.details
    if details is None:
        raise ValueError("the metric has no details: evaluate before writing the report")
    predictions_path = write_predictions(
        work_dir / "predictions.zip", metric.classes, metric.pictures, found[-1].images
    )
    page = Page("Semantic segmentation", f"UPerNet on ConvMAE-{config.model.size}, {config.data.root}")
    sureness = intervals(metric.numbers, resampled_scores(metric.pictures, len(metric.classes)))
    page.headline(
        [
            Number(name, f"{100 * metric.numbers[name]:.2f} %", with_interval(meaning, sureness.get(name)))
            for name, meaning in MEANINGS.items()
        ]
    )
    if sureness:
        page.text("How sure the numbers are", ANY_SCORE)
    add_remarks(page, {split.name: Tally(split.faults).remarks for split in found})
    told = add_unread(page, unread or {})
    numbers = {**metric.numbers, "intervals": ends(sureness), **_per_class(details), **told}
    _add_classes(page, details)
    rows = read_scalars(work_dir)
    if rows:
        page.figure(
            "Loss", curves(rows, {"UPerNet": "decode.loss_ce", "auxiliary head": "aux.loss_ce"}, "cross-entropy")
        )
        page.validation(rows, {name: name for name in metric.numbers}, "score")
        add_feeding(page, rows)
    _add_confusion(page, details)
    _add_pictures(page, metric, config, found[-1].pairs)
    page.facts("Data", {split.name: f"{split.describe()}, in {split.images}" for split in found})
    cost = {
        "views": describe_views(config.inference.scales, config.inference.flip),
        "evaluation": metric.pace(),
        "peak memory": describe_peak(resolve_device(config.runtime.device)),
    }
    add_run(page, config, weights, seconds, cost)
    return page, [*page.save(numbers, work_dir), predictions_path]


def _add_pictures(page: Page, metric: SegmentationMetric, config: SegmentationConfig, pairs: Sequence[Pair]) -> None:
    """Adds the worst and the best pictures; those without a labelled pixel are neither."""
    number, pair_of = len(metric.classes), {str(pair.image): pair for pair in pairs}
    labelled = [result for result in metric.pictures if len(result.counts)]
    ranked = sorted(labelled, key=lambda result: (result.accuracy(number), result.path))
    held = [set(np.flatnonzero(result.truth(number)).tolist()) for result in ranked]
    shown = [
        Shown(
            pair_of[ranked[place].path],
            f"{100 * ranked[place].accuracy(number):.1f} % of labelled pixels right",
            {"prediction": decode(ranked[place].label_map)},
        )
        for place in ends_and_classes(held, PICTURES, MOST)
    ]
    if shown:
        caption = (
            f"{len(shown)} of {len(metric.pictures)} validation pictures: the {PICTURES} worst and best by pixel accuracy, and "
            "some of classes that these don't hold. Pixels that the ground truth ignores are grey."
        )
        add_pictures(page, "Pictures", shown, metric.classes, config.data, caption, config.model.in_chans, ranked=True)


def _add_classes(page: Page, details: Details) -> None:
    truth, predicted = details.confusion.sum(axis=1), details.confusion.sum(axis=0)
    total = max(int(truth.sum()), 1)
    columns = {
        "IoU": details.iou,
        "F-score": details.fscore,
        "boundary F": details.boundary,
        "accuracy": details.accuracy,
        "truth": truth / total,
        "prediction": predicted / total,
    }
    page.table(
        "Classes",
        ["class", *columns],
        [
            [name, *map(Share, values)]
            for name, *values in zip(details.classes, *map(np.ndarray.tolist, columns.values()), strict=True)
        ],
        "A dash: there is nothing to measure, as for a class that the validation pictures don't hold, and the mean leaves it "
        "out. Boundary F is a mean over the pictures whose truth has a boundary of the class; the others count all pixels. "
        "Truth and prediction: the class's share of all labelled pixels in them.",
    )


def _add_confusion(page: Page, details: Details) -> None:
    truth = details.confusion.sum(axis=1)
    kept = np.sort(np.argsort(-truth, kind="stable")[:MATRIX_CLASSES])
    kept = kept[truth[kept] > 0]
    shares = details.confusion / np.maximum(truth[:, None], 1)
    caption = "Each row is a true class and adds up to 100 %: where its pixels went."
    if len(kept) < len(details.classes):
        caption += f" The {len(kept)} classes with most pixels of {len(details.classes)}."
    names = [details.classes[index] for index in kept]
    page.figure("Confusion matrix", matrix(shares[np.ix_(kept, kept)], names), caption)
    wrong = details.confusion - np.diag(np.diag(details.confusion))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:10]
    rows: list[list[str | float | None]] = []
    for true, guess in zip(*np.unravel_index(largest, wrong.shape), strict=True):
        if wrong[true, guess]:
            of_all = float(wrong[true, guess]) / max(int(truth.sum()), 1)
            rows.append([details.classes[true], details.classes[guess], Share(shares[true, guess]), Share(of_all)])
    page.table("Largest confusions", ["truth", "taken for", "share of the class", "share of all pixels"], rows)


def _per_class(details: Details) -> dict[str, float]:
    """Returns the scores by class name, nan where a class has none."""
    kinds = {"IoU": details.iou, "Acc": details.accuracy, "Fscore": details.fscore, "BoundaryF": details.boundary}
    return {
        f"{kind}/{name}": value
        for kind, values in kinds.items()
        for name, value in zip(details.classes, values.tolist(), strict=True)
    }
