"""Segmentation runs on the same pictures, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from convmae.reports.intervals import ANY_SCORE, PAIRED, Interval, ends, gains
from convmae.reports.page import Page, Share
from convmae.segmentation.config import SegmentationConfig, SegmentationDataOptions
from convmae.segmentation.data.layout import Pair, find_pairs, read_label, split_folders
from convmae.segmentation.evaluation.drawn_pairs import Shown, add_pictures
from convmae.segmentation.evaluation.predictions_file import decode, read_predictions
from convmae.segmentation.evaluation.report import MEANINGS
from convmae.segmentation.evaluation.resampled_scores import resampled_scores
from convmae.segmentation.evaluation.scores import Details, Result, total_scores

PICTURES = 12  # of those that one run does better than the others


@dataclass
class Scored:
    """A run, the results of its pictures in order of their names, and the scores that they give."""

    run: Run
    pictures: list[Result]
    details: Details


def compare(folders: Sequence[Path], overrides: Sequence[str], work_dir: Path) -> Page:
    """Writes ``metrics.json`` and ``report/index.html`` of two or more runs' work directories; returns the page.

    The scores are computed anew from the runs' counts; the pictures are read from where the last run's configuration says,
    which ``overrides`` change, such as a data folder that has moved. Raises UserError for runs on different data or classes
    and for what can't be read.
    """
    started = time.perf_counter()
    runs = read_runs(folders)
    scored = [_score(run) for run in runs]
    for other in scored[1:]:
        _check_same(scored[0], other)
    log.info(
        f"validation data: {len(scored[0].pictures)} pictures, {len(scored[0].details.classes)} classes, the same in all runs"
    )
    config = load_config(SegmentationConfig, str(runs[-1].config), overrides)
    page = Page(f"{len(runs)} segmentation runs", f"{listed(runs)}, on {config.data.root}")
    numbers: list[dict[str, Any]] = [one.details.numbers() for one in scored]
    drawn = [resampled_scores(one.pictures, len(one.details.classes)) for one in scored]
    sureness = [
        gains([numbers[0], other], [drawn[0], of_other]) for other, of_other in zip(numbers[1:], drawn[1:], strict=True)
    ]
    _add_results(page, scored, sureness)
    add_curves(page, "Loss", runs, "loss", "loss")
    add_curves(page, "Validation, mIoU", runs, "mIoU", "mIoU, %", 100)
    _add_pictures(page, scored, config)
    for of_run, sure_of in zip(numbers[1:], sureness, strict=True):
        of_run["gain_intervals"] = ends(sure_of)
    return finish(page, runs, numbers, list(MEANINGS), time.perf_counter() - started, work_dir)


def _score(run: Run) -> Scored:
    path = run.folder / "predictions.zip"
    classes, pictures = read_predictions(path)
    details = total_scores(classes, pictures)
    said, found = run.metrics.get("mIoU"), details.numbers()["mIoU"]
    if said is None or abs(said - found) > 1e-6:
        raise UserError(
            f"{run.folder}: metrics.json says mIoU {said}, and {path.name} gives {found:.6f}; expected the files of one run. "
            "Test the weights again."
        )
    return Scored(run, sorted(pictures, key=lambda result: result.path), details)


def _check_same(one: Scored, other: Scored) -> None:
    """Raises UserError unless both runs have the same classes, pictures and, in each, the same pixels of every class."""
    names = [scored.run.name for scored in (one, other)]
    known = [scored.details.classes for scored in (one, other)]
    if known[0] != known[1]:
        differing = next((pair for pair in zip(*known, strict=False) if pair[0] != pair[1]), None)
        what = f"{differing[0]!r} stands for {differing[1]!r}" if differing else "one list is longer"
        raise UserError(
            f"The runs have different classes: {names[0]} {len(known[0])}, {names[1]} {len(known[1])}; {what}. Expected the "
            "same list, in the same order."
        )
    paths = [{result.path for result in scored.pictures} for scored in (one, other)]
    if alone := sorted(paths[0] ^ paths[1]):
        raise UserError(
            f"The runs were tested on different data: {names[0]} on {len(paths[0])} pictures, {names[1]} on {len(paths[1])}; "
            f"{alone[0]} is in one alone. Expected the same pictures."
        )
    for first, second in zip(one.pictures, other.pictures, strict=True):
        if not np.array_equal(first.truth(len(known[0])), second.truth(len(known[0]))):
            raise UserError(
                f"The runs were tested on different data: the label map of {first.path} was another one in {names[0]} than in "
                f"{names[1]}. Test the weights again."
            )


def _add_results(page: Page, scored: Sequence[Scored], sureness: Sequence[Mapping[str, Interval]]) -> None:
    runs, totals = [one.run for one in scored], [one.details.numbers() for one in scored]
    page.headline(
        [
            number
            for name in ("mIoU", "mAcc", "aAcc", "mBoundaryF")
            for number in gain_numbers(
                name, runs, [of_one[name] for of_one in totals], [of_one.get(name) for of_one in sureness]
            )
        ]
    )
    if any(sureness):
        page.text("How sure the gains are", ANY_SCORE + PAIRED)
    rows: list[Row] = [
        (f"{name}: {meaning}", [Share(of_one[name]) for of_one in totals]) for name, meaning in MEANINGS.items()
    ]
    add_numbers(page, "Scores", "measure", runs, rows)
    for title, kind in (("IoU", "iou"), ("F-score", "fscore"), ("boundary F", "boundary"), ("accuracy", "accuracy")):
        values = [_known(getattr(one.details, kind)) for one in scored]
        rows = list(zip(scored[0].details.classes, zip(*values, strict=True), strict=True))
        add_numbers(page, f"Classes, {title}", "class", runs, rows, "A dash: there is nothing to measure.")


def _known(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else Share(value) for value in values.tolist()]


def _add_pictures(page: Page, scored: Sequence[Scored], config: SegmentationConfig) -> None:
    """Adds the pictures that each run does better than all others, by most."""
    first, options, channels = scored[0], config.data, config.model.in_chans
    number, images = len(first.details.classes), split_folders(options, "validation").image
    accuracies = [[result.accuracy(number) for result in one.pictures] for one in scored]
    changed = most_changed(accuracies, PICTURES)
    pairs = find_pairs(*split_folders(options, "validation")) if any(changed) else []
    pair_of = {pair.image.relative_to(images).as_posix(): pair for pair in pairs}
    for better, chosen in zip(scored, changed, strict=True):
        shown = []
        for place in chosen:
            reached = [
                f"{100 * values[place]:.1f} % {'of labelled pixels right ' if run == 0 else ''}in {one.run.name}"
                for run, (one, values) in enumerate(zip(scored, accuracies, strict=True))
            ]
            pair = _find(pair_of, first.pictures[place], images, options, number)
            predictions = {one.run.name: decode(one.pictures[place].label_map) for one in scored}
            shown.append(Shown(pair, ", ".join(reached), predictions))
        if shown:
            others = "the other run's" if len(scored) == 2 else "all other runs'"
            caption = f"The {len(shown)} pictures whose pixel accuracy is most above {others}."
            title = f"Better in {better.run.name}"
            add_pictures(page, title, shown, first.details.classes, options, caption, channels=channels)


def _find(pairs: dict[str, Pair], result: Result, images: Path, options: SegmentationDataOptions, number: int) -> Pair:
    """Returns the files of a picture. Raises UserError where they are no more, or other ones than were tested."""
    how = "Say where the tested data are by --cfg-options data.root=... and its like."
    if result.path not in pairs:
        raise UserError(f"There is no {images / result.path}, on which the runs were tested. {how}")
    pair = pairs[result.path]
    truth = read_label(pair.label, number, options.reduce_zero_label, options.max_pixels)
    if not np.array_equal(np.bincount(truth.ravel(), minlength=256)[:number], result.truth(number)):
        raise UserError(f"{pair.label} holds other labels than when the runs were tested. {how}")
    return pair
