"""Two segmentation runs on the same pictures, side by side."""

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
    Rows,
    Run,
    add_curves,
    add_numbers,
    finish,
    gain_number,
    most_changed,
    read_runs,
)
from convmae.reports.intervals import ANY_SCORE, PAIRED, Interval, ends, gains
from convmae.reports.page import Page
from convmae.segmentation.config import SegmentationConfig, SegmentationDataOptions
from convmae.segmentation.data.layout import Pair, find_pairs, read_label, split_folders
from convmae.segmentation.evaluation.drawn_pairs import Shown, add_pictures
from convmae.segmentation.evaluation.predictions_file import decode, read_predictions
from convmae.segmentation.evaluation.report import MEANINGS
from convmae.segmentation.evaluation.resampled_scores import resampled_scores
from convmae.segmentation.evaluation.scores import Details, Result, total_scores

PICTURES = 6  # of those that one run does better, and as many of the others


@dataclass
class Scored:
    """A run, the results of its pictures in order of their names, and the scores that they give."""

    run: Run
    pictures: list[Result]
    details: Details


def compare(folders: Sequence[Path], overrides: Sequence[str], work_dir: Path) -> Page:
    """Writes ``metrics.json`` and ``report/index.html`` of two runs' work directories; returns the page.

    The scores are computed anew from the runs' counts; the pictures are read from where the second run's configuration says,
    which ``overrides`` change, such as a data folder that has moved. Raises UserError for runs on different data or classes
    and for what can't be read.
    """
    started = time.perf_counter()
    runs = read_runs(folders)
    one, other = (_score(run) for run in runs)
    _check_same(one, other)
    log.info(
        f"validation data: {len(one.pictures)} pictures, {len(one.details.classes)} classes, the same in both runs"
    )
    config = load_config(SegmentationConfig, str(other.run.config), overrides)
    page = Page("Two segmentation runs", f"{one.run.name} and {other.run.name}, on {config.data.root}")
    numbers = [scored.details.numbers() for scored in (one, other)]
    drawn = [resampled_scores(scored.pictures, len(scored.details.classes)) for scored in (one, other)]
    sureness = gains(numbers, drawn)
    _add_results(page, one, other, sureness)
    add_curves(page, "Loss", runs, "loss", "loss")
    add_curves(page, "Validation, mIoU", runs, "mIoU", "mIoU, 0 to 1")
    _add_pictures(page, one, other, config)
    told: list[dict[str, Any]] = [{**numbers[0]}, {**numbers[1], "gain_intervals": ends(sureness)}]
    return finish(page, runs, told, list(MEANINGS), time.perf_counter() - started, work_dir)


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


def _add_results(page: Page, one: Scored, other: Scored, sureness: Mapping[str, Interval]) -> None:
    runs = (one.run, other.run)
    before, after = (scored.details.numbers() for scored in (one, other))
    headline = ("mIoU", "mAcc", "aAcc", "mBoundaryF")
    page.headline([gain_number(name, before[name], after[name], sureness.get(name)) for name in headline])
    if sureness:
        page.text("How sure the gains are", ANY_SCORE + PAIRED)
    rows: Rows = [(f"{name}: {meaning}", before[name], after[name]) for name, meaning in MEANINGS.items()]
    add_numbers(page, "Scores", "measure", runs, rows)
    for title, kind in (("IoU", "iou"), ("F-score", "fscore"), ("boundary F", "boundary"), ("accuracy", "accuracy")):
        values = [_known(getattr(scored.details, kind)) for scored in (one, other)]
        rows = list(zip(one.details.classes, *values, strict=True))
        add_numbers(page, f"Classes, {title}", "class", runs, rows, "A dash: there is nothing to measure.")


def _known(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _add_pictures(page: Page, one: Scored, other: Scored, config: SegmentationConfig) -> None:
    """Adds the pictures where the accuracies differ most, those that each run does better apart."""
    number, options, channels = len(one.details.classes), config.data, config.model.in_chans
    images = split_folders(options, "validation").image
    before, after = ([result.accuracy(number) for result in scored.pictures] for scored in (one, other))
    changed = most_changed(before, after, PICTURES)
    pairs = find_pairs(*split_folders(options, "validation")) if any(changed) else []
    pair_of = {pair.image.relative_to(images).as_posix(): pair for pair in pairs}
    for better, chosen in zip((one, other), changed, strict=True):
        shown = [
            Shown(
                _find(pair_of, one.pictures[place], images, options, number),
                f"{one.pictures[place].path}: {100 * before[place]:.1f} % of labelled pixels right in {one.run.name}, "
                f"{100 * after[place]:.1f} % in {other.run.name}",
                {scored.run.name: decode(scored.pictures[place].label_map) for scored in (one, other)},
            )
            for place in chosen
        ]
        if shown:
            caption = f"The {len(shown)} pictures whose pixel accuracy is most above the other run's."
            title = f"Better in {better.run.name}"
            add_pictures(page, title, shown, one.details.classes, options, caption, channels=channels)


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
