"""The report page of a segmentation run."""

from pathlib import Path

import numpy as np

from convmae.engine.config import to_yaml
from convmae.engine.drawing import palette
from convmae.engine.log import duration
from convmae.engine.plots import curves, matrix
from convmae.engine.precision import resolve_device, resolve_precision
from convmae.engine.report import Number, Page, Picture, environment, read_scalars, write_metrics
from convmae.segmentation.check import Found
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data import SegmentationDataset
from convmae.segmentation.evaluation import Details, SegmentationMetric
from convmae.segmentation.model import UPerNet
from convmae.segmentation.pictures import draw, predict, spread

PICTURES = 12
MATRIX_CLASSES = 30  # more names than this can't be read along an axis


def write_report(
    model: UPerNet,
    dataset: SegmentationDataset,
    metric: SegmentationMetric,
    config: SegmentationConfig,
    found: list[Found],
    work_dir: Path,
    seconds: float,
    weights: Path,
) -> tuple[Page, list[Path]]:
    """Writes ``metrics.json`` and ``report/index.html`` from the metric's last evaluation; returns the page and the paths."""
    details = metric.details
    if details is None:
        raise ValueError("the metric has no details: evaluate before writing the report")
    page = Page("Semantic segmentation", f"UPerNet on ConvMAE-{config.model.size}, {config.data.root}")
    page.headline(
        [
            Number("mIoU", f"{100 * metric.numbers['mIoU']:.2f} %", "mean intersection over union of the classes"),
            Number("mAcc", f"{100 * metric.numbers['mAcc']:.2f} %", "mean part of a class's pixels found"),
            Number("aAcc", f"{100 * metric.numbers['aAcc']:.2f} %", "part of all labelled pixels right"),
        ]
    )
    _add_classes(page, details)
    rows = read_scalars(work_dir)
    if rows:
        page.figure(
            "Loss", curves(rows, {"UPerNet": "decode.loss_ce", "auxiliary head": "aux.loss_ce"}, "cross-entropy")
        )
        page.figure("Validation", curves(rows, {name: name for name in metric.numbers}, "score, 0 to 1"))
    _add_confusion(page, details)
    _add_pictures(page, model, dataset, details, config)
    page.facts("Data", {split.name: f"{split.describe()}, in {split.pairs[0].image.parent}" for split in found})
    page.facts("Run", {"weights": str(weights), "time": duration(seconds), **environment()})
    page.code("Configuration", to_yaml(config))
    metrics_path, page_path = work_dir / "metrics.json", work_dir / "report" / "index.html"
    write_metrics(metrics_path, {**metric.numbers, **_per_class(details)})
    page.write(page_path)
    return page, [metrics_path, page_path]


def _add_pictures(
    page: Page, model: UPerNet, dataset: SegmentationDataset, details: Details, config: SegmentationConfig
) -> None:
    device = resolve_device(config.runtime.device)
    dtype = resolve_precision(config.runtime.precision, device)
    index_of = {str(pair.image): index for index, pair in enumerate(dataset.pairs)}
    shown = []
    for path in spread(details.pictures, PICTURES):
        truth, prediction = predict(model, dataset, index_of[path], device, dtype)
        shown.append(draw(path, truth, prediction, len(details.classes), details.pictures[path]))
    held = set().union(*(picture.classes for picture in shown))
    colours = palette(len(details.classes))
    page.pictures(
        "Predictions",
        [Picture(picture.image, picture.caption) for picture in shown],
        f"{len(shown)} of {len(details.pictures)} validation pictures, evenly from the worst to the best by pixel accuracy. "
        "Pixels that the ground truth ignores are grey.",
        columns=1,
        legend=[(details.classes[label], colours[label]) for label in sorted(held)],
    )


def _add_classes(page: Page, details: Details) -> None:
    truth, predicted = details.confusion.sum(axis=1), details.confusion.sum(axis=0)
    total = max(int(truth.sum()), 1)
    rows: list[list[str | float]] = [
        [name, float(iou), float(accuracy), float(true) / total, float(guess) / total]
        for name, iou, accuracy, true, guess in zip(
            details.classes, details.iou, details.accuracy, truth, predicted, strict=True
        )
    ]
    page.table(
        "Classes",
        ["class", "IoU", "accuracy", "share of truth", "share of prediction"],
        rows,
        "A dash: the class does not occur in the validation pictures, and the mean leaves it out.",
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
    rows: list[list[str | float]] = []
    for true, guess in zip(*np.unravel_index(largest, wrong.shape), strict=True):
        if wrong[true, guess]:
            of_all = float(wrong[true, guess]) / max(int(truth.sum()), 1)
            rows.append([details.classes[true], details.classes[guess], float(shares[true, guess]), of_all])
    page.table("Largest confusions", ["truth", "taken for", "share of the class", "share of all pixels"], rows)


def _per_class(details: Details) -> dict[str, float]:
    """Returns IoU and accuracy by class name, nan where a class does not occur."""
    return {
        f"{kind}/{name}": float(value)
        for kind, values in (("IoU", details.iou), ("Acc", details.accuracy))
        for name, value in zip(details.classes, values, strict=True)
    }
