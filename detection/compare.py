"""Two detection runs on the same pictures, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convmae.detection.checks.preflight import read_split
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData
from convmae.detection.evaluation.coco_metric import STANDARD, CocoMetric, read_results
from convmae.detection.evaluation.error_kinds import CONFIDENT, ERRORS, judge, overlaps, sure
from convmae.detection.evaluation.rated_pictures import Rated, draw, rate
from convmae.detection.evaluation.report import KINDS, MEANINGS, known, resampled
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.reports.comparison import (
    Rows,
    Run,
    add_curves,
    add_numbers,
    finish,
    gain_number,
    most_changed,
    read_runs,
)
from convmae.reports.intervals import MEANING, PAIRED, Interval, ends, gains
from convmae.reports.page import Page, Picture
from convmae.reports.plots import lines

PICTURES = 6  # of those that one run does better, and as many of the others


@dataclass
class Scored:
    """A run, its metric as evaluated anew from its detections, and how its pictures do."""

    run: Run
    metric: CocoMetric
    rated: list[Rated]


def compare(folders: Sequence[Path], overrides: Sequence[str], work_dir: Path) -> Page:
    """Writes ``metrics.json`` and ``report/index.html`` of two runs' work directories; returns the page.

    All is computed anew from the detections and the ground truth that the runs name; ``overrides`` replace options of both,
    such as a data folder that has moved. Raises UserError for runs on different data and for what can't be read.
    """
    runs = read_runs(folders)
    configs = [load_config(DetectionConfig, str(run.config), overrides) for run in runs]
    splits = [read_split(config.data, config.model.masks, channels=config.model.in_chans) for config in configs]
    _check_same(runs, splits)
    log.info(f"validation data: {splits[0].describe()} ({splits[0].annotations})")
    masks = all(config.model.masks for config in configs)
    one, other = (_score(run, splits[0], masks) for run in runs)
    page = Page("Two detection runs", f"{one.run.name} and {other.run.name}, on {splits[0].annotations}")
    metrics = [scored.metric for scored in (one, other)]
    sureness = gains([metric.numbers for metric in metrics], [resampled(metric) for metric in metrics])
    _add_results(page, one, other, sureness)
    _add_curves(page, one, other)
    _add_pictures(page, one, other)
    numbers: list[dict[str, Any]] = [
        {**one.metric.numbers},
        {**other.metric.numbers, "gain_intervals": ends(sureness)},
    ]
    headline = [f"{kind}_{name}" for kind in one.metric.kinds for name in ("mAP", "AP50")]
    return finish(page, runs, numbers, headline, one.metric.scoring + other.metric.scoring, work_dir)


def _check_same(runs: Sequence[Run], splits: Sequence[CocoData]) -> None:
    if splits[0].ground_truth() != splits[1].ground_truth():
        of = [f"{run.name} on {data.annotations} ({data.describe()})" for run, data in zip(runs, splits, strict=True)]
        raise UserError(
            f"The runs were tested on different data: {of[0]}, {of[1]}; expected the same objects and pictures."
        )


def _score(run: Run, data: CocoData, masks: bool) -> Scored:
    predictions = read_results(run.folder / "detections.json", data)
    metric = CocoMetric(data, masks)
    metric.numbers = metric.compute_metrics(predictions)
    said = run.metrics.get("bbox_mAP")
    if said is None or abs(said - metric.numbers["bbox_mAP"]) > 1e-6:
        raise UserError(
            f"{run.folder}: metrics.json says box AP {said}, and detections.json gives {metric.numbers['bbox_mAP']:.6f} on "
            f"{data.annotations}; expected the files of one run, and data that are as they were. Test the weights again."
        )
    return Scored(run, metric, rate(data, predictions, sure(overlaps(data, predictions, "bbox"))))


def _add_results(page: Page, one: Scored, other: Scored, sureness: Mapping[str, Interval]) -> None:
    runs, data = (one.run, other.run), one.metric.data
    pairs = {name: (value, other.metric.numbers[name]) for name, value in one.metric.numbers.items()}
    page.headline(
        [
            gain_number(f"{KINDS[kind]} {name}", *pairs[f"{kind}_{key}"], sureness.get(f"{kind}_{key}"))
            for name, key in (("AP", "mAP"), ("AP50", "AP50"))
            for kind in one.metric.kinds
        ]
    )
    if sureness:
        page.text("How sure the gains are", MEANING + PAIRED)
    for kind in one.metric.kinds:
        rows: Rows = [(MEANINGS[name], *_both(pairs[f"{kind}_{name}"])) for name in STANDARD]
        add_numbers(page, f"COCO's twelve numbers, {KINDS[kind]}", "measure", runs, rows)
        before, after = (scored.metric.details[kind].class_ap().tolist() for scored in (one, other))
        names = [category.name for category in data.categories]
        rows = [(name, *_both(pair)) for name, pair in zip(names, zip(before, after, strict=True), strict=True)]
        add_numbers(page, f"Classes, {KINDS[kind]}", "class", runs, rows, "AP by class.")
        counts = [_errors(scored.metric, kind) for scored in (one, other)]
        rows = [(error, counts[0][error], counts[1][error]) for error in ERRORS]
        caption = f"Among detections of confidence {CONFIDENT:g} or more; a run's own report says what each kind is."
        add_numbers(page, f"Errors, {KINDS[kind]}", "error", runs, rows, caption)


def _both(pair: tuple[float, float]) -> tuple[float | None, float | None]:
    return known(pair[0]), known(pair[1])


def _errors(metric: CocoMetric, kind: str) -> dict[str, int]:
    return judge(sure(overlaps(metric.data, metric.predictions, kind))).counts()


def _add_curves(page: Page, one: Scored, other: Scored) -> None:
    recall = np.linspace(0, 1, 101)
    for kind in one.metric.kinds:
        at: dict[str, Any] = {
            f"{scored.run.name}, IoU {iou:.2f}": scored.metric.details[kind].curve(iou)
            for iou in (0.5, 0.75)
            for scored in (one, other)
        }
        page.figure(f"Precision over recall, {KINDS[kind]}", lines(recall, at, "recall", "precision"))
    runs = (one.run, other.run)
    add_curves(page, "Loss", runs, "loss", "loss")
    for kind in one.metric.kinds:
        add_curves(page, f"Validation, {KINDS[kind]} AP", runs, f"{kind}_mAP", "AP, 0 to 1")


def _add_pictures(page: Page, one: Scored, other: Scored) -> None:
    """Adds the pictures where the F-scores differ most, those that each run does better apart."""
    before, after = ([rated.score for rated in scored.rated] for scored in (one, other))
    for better, shown in zip((one, other), most_changed(before, after, PICTURES), strict=True):
        if shown:
            page.pictures(
                f"Better in {better.run.name}",
                [_picture(one, other, number) for number in shown],
                f"The {len(shown)} pictures whose F-score of confident boxes at IoU 0.5 is most above the other run's.",
                columns=1,
            )


def _picture(one: Scored, other: Scored, number: int) -> Picture:
    both = {scored.run.name: scored.rated[number] for scored in (one, other)}
    record, data = one.rated[number].record, one.metric.data
    caption = "; ".join(f"{name}: {rated}" for name, rated in both.items())
    image = draw(data, record, {name: rated.found for name, rated in both.items()})
    return Picture(image, f"{record.file_name}: {caption}")
