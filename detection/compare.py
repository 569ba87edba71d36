"""Detection runs on the same pictures, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convmae.detection.checks.preflight import read_split
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData
from convmae.detection.evaluation.coco_metric import CocoMetric, read_results
from convmae.detection.evaluation.coco_scores import BEYOND, COUNTED, STANDARD
from convmae.detection.evaluation.error_kinds import ERRORS, judge, overlaps, sure
from convmae.detection.evaluation.rated_pictures import found_panel, read_picture, truth_panel
from convmae.detection.evaluation.ratings import Rated, rate, threshold
from convmae.detection.evaluation.report import BEYOND_MEANINGS, KINDS, MEANINGS, known, resampled
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.reports.comparison import (
    Row,
    Run,
    add_curves,
    add_numbers,
    finish,
    gain_numbers,
    listed,
    most_changed,
    read_runs,
)
from convmae.reports.intervals import MEANING, PAIRED, Interval, ends, gains
from convmae.reports.page import Page, Picture, Threshold
from convmae.reports.plots import lines

PICTURES = 12  # of those that one run does better than the others


@dataclass
class Scored:
    """A run, its metric as evaluated anew from its detections, how its pictures do, and the confidence of its best F1."""

    run: Run
    metric: CocoMetric
    rated: list[Rated]
    marked: Threshold


def compare(folders: Sequence[Path], overrides: Sequence[str], work_dir: Path) -> Page:
    """Writes ``metrics.json`` and ``report/index.html`` of two or more runs' work directories; returns the page.

    All is computed anew from the detections and the ground truth that the runs name; ``overrides`` replace options of all,
    such as a data folder that has moved. Raises UserError for runs on different data and for what can't be read.
    """
    runs = read_runs(folders)
    configs = [load_config(DetectionConfig, str(run.config), overrides) for run in runs]
    splits = [read_split(config.data, config.model.masks, channels=config.model.in_chans) for config in configs]
    _check_same(runs, splits)
    log.info(f"validation data: {splits[0].describe()} ({splits[0].annotations})")
    masks = all(config.model.masks for config in configs)
    detections = max(config.model.detections for config in configs)
    scored = [_score(run, splits[0], masks, detections) for run in runs]
    page = Page(f"{len(runs)} detection runs", f"{listed(runs)}, on {splits[0].annotations}")
    drawn = [resampled(one.metric) for one in scored]
    sureness = [
        gains([scored[0].metric.numbers, one.metric.numbers], [drawn[0], of_one])
        for one, of_one in zip(scored[1:], drawn[1:], strict=True)
    ]
    _add_results(page, scored, sureness)
    _add_curves(page, scored)
    _add_pictures(page, scored)
    numbers: list[dict[str, Any]] = [{**one.metric.numbers} for one in scored]
    for of_run, sure_of in zip(numbers[1:], sureness, strict=True):
        of_run["gain_intervals"] = ends(sure_of)
    headline = [f"{kind}_{name}" for kind in scored[0].metric.kinds for name in ("mAP", "AP50")]
    return finish(page, runs, numbers, headline, sum(one.metric.scoring for one in scored), work_dir)


def _check_same(runs: Sequence[Run], splits: Sequence[CocoData]) -> None:
    truth = splits[0].ground_truth()
    for run, data in zip(runs[1:], splits[1:], strict=True):
        if data.ground_truth() != truth:
            of = [
                f"{one.name} on {split.annotations} ({split.describe()})"
                for one, split in ((runs[0], splits[0]), (run, data))
            ]
            raise UserError(
                f"The runs were tested on different data: {of[0]}, {of[1]}; expected the same objects and pictures."
            )


def _score(run: Run, data: CocoData, masks: bool, detections: int) -> Scored:
    predictions = read_results(run.folder / "detections.json", data)
    metric = CocoMetric(data, masks, detections)
    metric.numbers = metric.compute_metrics(predictions)
    said = run.metrics.get("bbox_mAP")
    if said is None or abs(said - metric.numbers["bbox_mAP"]) > 1e-6:
        raise UserError(
            f"{run.folder}: metrics.json says box AP {said}, and detections.json gives {metric.numbers['bbox_mAP']:.6f} on "
            f"{data.annotations}; expected the files of one run, and data that are as they were. Test the weights again."
        )
    pictures = overlaps(data, predictions, "bbox")
    return Scored(run, metric, rate(data, predictions, pictures), threshold(pictures, len(data.categories), run.name))


def _add_results(page: Page, scored: Sequence[Scored], sureness: Sequence[Mapping[str, Interval]]) -> None:
    runs, data, first = [one.run for one in scored], scored[0].metric.data, scored[0].metric

    def values(name: str) -> list[float]:
        return [one.metric.numbers[name] for one in scored]

    page.headline(
        [
            number
            for name, key in (("AP", "mAP"), ("AP50", "AP50"))
            for kind in first.kinds
            for number in gain_numbers(
                f"{KINDS[kind]} {name}",
                runs,
                values(f"{kind}_{key}"),
                [of_one.get(f"{kind}_{key}") for of_one in sureness],
            )
        ]
    )
    if any(sureness):
        page.text("How sure the gains are", MEANING + PAIRED)
    for kind in first.kinds:
        rows: list[Row] = [(MEANINGS[name], [*map(known, values(f"{kind}_{name}"))]) for name in STANDARD]
        add_numbers(page, f"COCO's twelve numbers, {KINDS[kind]}", "measure", runs, rows)
        if first.detections > COUNTED:
            rows = [
                (BEYOND_MEANINGS[name], [*map(known, values(f"{kind}_{name}_{first.detections}"))]) for name in BEYOND
            ]
            title = f"With {first.detections} detections a picture, {KINDS[kind]}"
            add_numbers(page, title, "measure", runs, rows, "As many as the runs keep at most (model.detections).")
        names = [category.name for category in data.categories]
        by_class = [map(known, one.metric.details[kind].class_ap().tolist()) for one in scored]
        rows = list(zip(names, zip(*by_class, strict=True), strict=True))
        add_numbers(page, f"Classes, {KINDS[kind]}", "class", runs, rows, "AP by class.")
        counts = [_errors(one, kind) for one in scored]
        rows = [(error, [of_one[error] for of_one in counts]) for error in ERRORS]
        at = ", ".join(f"{one.marked.confidence:.2f} ({one.run.name})" for one in scored)
        caption = f"Among detections from the confidence of each run's best F1 on: {at}. A run's report says what each kind is."
        add_numbers(page, f"Errors, {KINDS[kind]}", "error", runs, rows, caption)


def _errors(scored: Scored, kind: str) -> dict[str, int]:
    metric = scored.metric
    return judge(sure(overlaps(metric.data, metric.predictions, kind), scored.marked.confidence)).counts()


def _add_curves(page: Page, scored: Sequence[Scored]) -> None:
    kinds, runs = scored[0].metric.kinds, [one.run for one in scored]
    for kind in kinds:
        at: dict[str, Any] = {
            f"{one.run.name}, IoU {iou:.2f}": 100 * one.metric.details[kind].curve(iou)
            for iou in (0.5, 0.75)
            for one in scored
        }
        page.figure(
            f"Precision over recall, {KINDS[kind]}", lines(np.linspace(0, 100, 101), at, "recall, %", "precision, %")
        )
    add_curves(page, "Loss", runs, "loss", "loss")
    for kind in kinds:
        add_curves(page, f"Validation, {KINDS[kind]} AP", runs, f"{kind}_mAP", "AP, %", 100)


def _add_pictures(page: Page, scored: Sequence[Scored]) -> None:
    """Adds the pictures that each run does better than all others, by most."""
    f1 = [[rated.f1(one.marked.confidence) for rated in one.rated] for one in scored]
    others = "the other run's" if len(scored) == 2 else "all other runs'"
    for better, chosen in zip(scored, most_changed(f1, PICTURES), strict=True):
        if chosen:
            page.pictures(
                f"Better in {better.run.name}",
                [_picture(scored, number) for number in chosen],
                f"The {len(chosen)} pictures whose F-score of boxes at IoU 0.50, each run's at the confidence of its best F1, "
                f"is most above {others}. Dashed: boxes that find no object.",
                columns=3 if len(scored) == 2 else 2,
                classes=[category.name for category in better.metric.data.categories],
                thresholds=[one.marked for one in scored],
            )


def _picture(scored: Sequence[Scored], number: int) -> Picture:
    data, record = scored[0].metric.data, scored[0].rated[number].record
    image = read_picture(data, record)
    panels = [truth_panel(image, data, record)]
    for run, one in enumerate(scored):
        rated = one.rated[number]
        panels.append(found_panel(image, data, rated.found, rated.overlaps, one.run.name, run))
    return Picture(panels, "", data.path(record), record.file_name, sorted(scored[0].rated[number].classes()))
