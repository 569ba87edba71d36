"""Detection runs: from data and options to trained weights, scores and a report."""

from __future__ import annotations

import time
from pathlib import Path

from mmengine.dist import is_main_process

from convmae.detection.checks.preflight import check_options, check_pictures, read_split, read_splits
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData
from convmae.detection.data.dataset import EvalSet, TrainSet, collate_test, collate_train
from convmae.detection.evaluation.coco_metric import CocoMetric
from convmae.detection.evaluation.report import write_report
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.weights import init_weights, load_detector
from convmae.engine.config import save_config, to_yaml
from convmae.engine.faults import log_remarks
from convmae.engine.files import save_weights
from convmae.engine.log import log, log_done
from convmae.engine.options import describe_views
from convmae.engine.seeding import INIT, seed_all
from convmae.engine.training.train import evaluate
from convmae.engine.training.train import train as run_training
from convmae.engine.whole_weights import check_freeze
from convmae.reports.page import Page


def train(config: DetectionConfig, work_dir: Path, resume: bool) -> Page | None:
    """Trains Mask R-CNN as the tree says; writes checkpoints, ``model.pth``, and what a test does.

    Returns the report's page (None on other processes than the first).
    Raises UserError for data and options that can't work, before the first step where it can be known then.
    """
    started = time.perf_counter()
    check_options(config)
    check_freeze(config.model.freeze, config.model.init)
    masks = config.model.masks
    train_data, val_data = read_splits(config.data, masks, config.model.detections, config.model.in_chans)
    train_set, val_set = TrainSet(train_data, config.data, masks), _eval_set(val_data, config)
    seed_all(config.runtime.seed, INIT)
    model = DetectionModel(config, train_data.categories)
    if config.model.init:
        init_weights(model, config.model.init)
    model.model.backbone.freeze(config.model.freeze)
    metric = CocoMetric(val_data, masks, config.model.detections)
    runner = run_training(
        model,
        train_set,
        config=config,
        work_dir=work_dir,
        collate=collate_train,
        val_set=val_set,
        val_collate=collate_test,
        val_batch_size=config.data.eval_batch_size,
        metrics=[metric],
        compiled=model.model.static_methods(),
        resume=resume,
        best="bbox_mAP",
    )
    if not is_main_process():
        return None
    weights = save_weights(runner.bare_model.state_dict(), work_dir / "model.pth", to_yaml(config))
    splits = {"training": train_data, "validation": val_data}
    seconds = time.perf_counter() - started
    page, files = write_report(metric, config, splits, work_dir, seconds, weights, runner.unread_pictures())
    log_done(_headline(metric), [weights, *files], seconds)
    return page


def test(config: DetectionConfig, checkpoint: Path, work_dir: Path) -> dict[str, float]:
    """Evaluates weights on the validation pictures and returns the numbers.

    Writes ``config.yaml``, ``metrics.json``, ``detections.json`` and ``report/index.html``.

    Raises UserError for data that can't be read and for weights that don't fill the model.
    """
    started = time.perf_counter()
    check_options(config)
    data = read_split(config.data, config.model.masks, config.model.detections, config.model.in_chans)
    data.check(lambda data, report: check_pictures(data, config.data.check_pictures, report))
    log.info(f"validation data: {data.describe()} ({data.annotations})")
    log_remarks("validation", data.remarks)
    model = DetectionModel(config, data.categories)
    load_detector(model, checkpoint)
    metric, val_set = CocoMetric(data, config.model.masks, config.model.detections), _eval_set(data, config)
    evaluate(
        model,
        val_set,
        metrics=[metric],
        config=config,
        work_dir=work_dir,
        collate=collate_test,
        batch_size=config.data.eval_batch_size,
    )
    if is_main_process():
        seconds = time.perf_counter() - started
        save_config(config, work_dir / "config.yaml")
        _, files = write_report(metric, config, {"validation": data}, work_dir, seconds, checkpoint)
        log_done(_headline(metric), files, seconds)
    return metric.numbers


def _eval_set(data: CocoData, config: DetectionConfig) -> EvalSet:
    inference = config.inference
    log.info(f"validation views: {describe_views(inference.scales, inference.flip)}")
    return EvalSet(data, *inference.sides(config.data.img_size), padding=config.data.padding)


def _headline(metric: CocoMetric) -> dict[str, float]:
    return {name: value for name, value in metric.numbers.items() if name.endswith(("mAP", "AP50", "AP75"))}
