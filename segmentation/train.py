"""Segmentation runs: from data and options to trained weights, scores and a report."""

import time
from functools import partial
from pathlib import Path

from mmengine.dataset import pseudo_collate
from mmengine.dist import is_main_process

from convmae.backbones import load_checkpoint
from convmae.engine.config import save_config, to_yaml
from convmae.engine.faults import Fault, Tally, log_remarks, refuse_all
from convmae.engine.files import save_weights
from convmae.engine.log import log, log_done
from convmae.engine.pictures.duplicates import check_shared
from convmae.engine.seeding import INIT, seed_all
from convmae.engine.training.train import evaluate
from convmae.engine.training.train import train as run_training
from convmae.engine.whole_weights import check_encoder, check_freeze, tell_start
from convmae.reports.page import Page
from convmae.segmentation.checks.class_fit import check_fit
from convmae.segmentation.checks.splits import check_repeated_pairs, check_split
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.batches import stack_crops
from convmae.segmentation.data.class_list import read_class_list
from convmae.segmentation.data.dataset import SegmentationDataset
from convmae.segmentation.data.found import Found
from convmae.segmentation.data.layout import Pair
from convmae.segmentation.data.rare_classes import find_classes, repeat_rare
from convmae.segmentation.evaluation.report import write_report
from convmae.segmentation.evaluation.scores import SegmentationMetric
from convmae.segmentation.model.losses import weigh_pixels
from convmae.segmentation.model.upernet import build_model, check_options, heads
from convmae.segmentation.model.weights import check_numbering, load_weights


def train(config: SegmentationConfig, work_dir: Path, resume: bool) -> Page | None:
    """Trains UPerNet as the tree says.

    Writes checkpoints, ``model.pth``, ``metrics.json``, ``predictions.zip`` and ``report/index.html``.
    Returns the report's page (None on other processes than the first).
    Raises UserError for data and options that can't work, before the first step where it can be known then.
    """
    started = time.perf_counter()
    check_options(config)
    check_freeze(config.model.freeze, config.model.init)
    classes, training, validation = find_data(config, ("training", "validation"))
    seed_all(config.runtime.seed, INIT)
    model = build_model(config, len(classes))
    model.dataset_meta = {"classes": classes}
    weigh_pixels(heads(model), config.loss, training.pixels)
    if config.model.init:
        report = load_checkpoint(model.backbone, config.model.init)
        log.info(tell_start(report))
        check_encoder(report, config.model.init)
    model.backbone.freeze(config.model.freeze)
    metric = SegmentationMetric(classes)
    val_set = SegmentationDataset(validation.pairs, classes, config.data, False, config.model.in_chans)
    runner = run_training(
        model,
        SegmentationDataset(
            _training_pairs(training, classes, config), classes, config.data, True, config.model.in_chans
        ),
        config=config,
        work_dir=work_dir,
        collate=partial(stack_crops, side=config.data.crop),
        val_set=val_set,
        val_collate=pseudo_collate,
        val_batch_size=config.data.eval_batch_size,
        metrics=[metric],
        compiled=[model.backbone.forward_pyramid],  # E4's batch norm may wait for other processes
        resume=resume,
        best="mIoU",
        fixed_shapes=True,
    )
    if not is_main_process():
        return None
    weights = save_weights(runner.bare_model.state_dict(), work_dir / "model.pth", to_yaml(config), runner.model_meta)
    seconds = time.perf_counter() - started
    page, files = write_report(
        metric, config, [training, validation], work_dir, seconds, weights, runner.unread_pictures()
    )
    log_done(metric.numbers, [weights, *files], seconds)
    return page


def test(config: SegmentationConfig, checkpoint: Path, work_dir: Path) -> dict[str, float]:
    """Evaluates weights on the validation pictures and returns the metrics.

    Writes ``config.yaml``, ``metrics.json``, ``predictions.zip`` and ``report/index.html``.

    Raises UserError for data that can't be read and for weights that don't fill the model.
    """
    started = time.perf_counter()
    check_options(config, training=False)
    classes, validation = find_data(config, ("validation",))
    model = build_model(config, len(classes))
    load_weights(model, checkpoint, classes)
    numbering: list[Fault] = []
    check_numbering(checkpoint, config.data, numbering.append)
    log_remarks(validation.name, Tally(numbering).remarks)
    validation.faults += numbering
    metric = SegmentationMetric(classes)
    val_set = SegmentationDataset(validation.pairs, classes, config.data, False, config.model.in_chans)
    evaluate(
        model,
        val_set,
        metrics=[metric],
        config=config,
        work_dir=work_dir,
        collate=pseudo_collate,
        batch_size=config.data.eval_batch_size,
    )
    if is_main_process():
        seconds = time.perf_counter() - started
        save_config(config, work_dir / "config.yaml")
        _, files = write_report(metric, config, [validation], work_dir, seconds, checkpoint)
        log_done(metric.numbers, files, seconds)
    return metric.numbers


def find_data(config: SegmentationConfig, splits: tuple[str, ...]) -> tuple:
    """Returns the class names and what was found of each split, all checked; logs it. Raises UserError for bad data."""
    options = config.data
    classes = read_class_list(options)
    found: dict[str, Found] = {}
    for split in splits:
        one = check_split(split, options, len(classes.names), options.check_pixels, channels=config.model.in_chans)
        check_fit(one, classes, options.reduce_zero_label, found.get("training"))
        check_repeated_pairs(one)
        if "training" in found:
            check_shared(found["training"].paths(), one.paths(), one.faults.append)
        if split == "training":
            options.let_skip(one.faults, len(one.pairs))
        refuse_all(one.faults)
        log.info(f"data, {split}: {one.describe()}, in {one.images}")
        log_remarks(split, Tally(one.faults).remarks)
        found[split] = one
    return classes.names, *found.values()


def _training_pairs(training: Found, classes: list[str], config: SegmentationConfig) -> list[Pair]:
    if not config.data.repeat_rare:
        return training.pairs
    held = find_classes(training.pairs, len(classes), config.data.reduce_zero_label, config.data.max_pixels)
    pairs = repeat_rare(training.pairs, held, config.data.repeat_rare)
    log.info(f"pictures of rare classes are repeated: {len(training.pairs)} become {len(pairs)}")
    return pairs
