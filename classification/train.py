"""Classification runs: fine-tuning, linear probe and k-NN, from class folders to accuracies and a report."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from mmengine.dist import get_world_size, is_main_process
from torch.utils.data import default_collate

from convmae.backbones import FAMILIES, Classifier, load_checkpoint
from convmae.classification.config import FinetuningConfig, ProbeConfig
from convmae.classification.data.dataset import ClassFolder, EvalSet, TrainSet, read_split, read_splits
from convmae.classification.data.erasing import collate
from convmae.classification.data.mixing import check_pairs
from convmae.classification.evaluation.accuracy import ClassificationMetric, Details, Prediction, score
from convmae.classification.evaluation.report import start_page, write_report
from convmae.classification.model import ClassificationModel
from convmae.classification.probes.features import Features, probed_encoder, read_features
from convmae.engine.class_lists import check_classes, class_difference, known_classes
from convmae.engine.config import save_config, to_yaml
from convmae.engine.errors import UserError
from convmae.engine.files import read_meta, save_weights
from convmae.engine.log import log, log_done
from convmae.engine.machine.precision import resolve_device
from convmae.engine.probes.knn import knn_scores
from convmae.engine.probes.linear import train_probes
from convmae.engine.seeding import INIT, seed_all
from convmae.engine.training.train import evaluate
from convmae.engine.training.train import train as run_training
from convmae.engine.whole_weights import check_encoder, check_filled, check_freeze, tell_start
from convmae.reports.page import Page, Share

_FOLDERS = "class folders"


def finetune(config: FinetuningConfig, work_dir: Path, resume: bool) -> Page | None:
    """Fine-tunes ConvViT as the tree says; writes checkpoints, ``model.pth``, ``metrics.json`` and ``report/index.html``.

    Returns the report's page (None on other processes than the first). Raises UserError for data and options that can't work.
    """
    started = time.perf_counter()
    check_freeze(config.model.freeze, config.model.init)
    check_pairs(config.augment, config.data, get_world_size())
    training, validation = read_splits(config.data, config.model.in_chans)
    options = config.model
    train_set = TrainSet(training, config.augment, options.img_size, config.data.keep)
    seed_all(config.runtime.seed, INIT)
    model = build_model(config, len(training.classes))
    if options.init:
        init = Path(options.init)
        other = class_difference(known_classes(read_meta(init)), training.folders, training.root, _FOLDERS)
        report = load_checkpoint(model, init, left_out={"head.": "of other classes"} if other else None)
        log.info(tell_start(report))
        if other:
            log.warning(f"{init} {other}; its head is left out, and a new one is trained")
        check_encoder(report, options.init)
    model.freeze(options.freeze)
    metric = ClassificationMetric(training.classes)
    trained = ClassificationModel(model, options.smoothing)
    # Labels follow the folders' order; their readable names may change.
    trained.dataset_meta = {"classes": training.classes, "folders": training.folders}
    runner = run_training(
        trained,
        train_set,
        config=config,
        work_dir=work_dir,
        collate=collate,
        val_collate=default_collate,
        val_set=EvalSet(validation, options.img_size, config.data.test_crop),
        val_batch_size=64,
        metrics=[metric],
        compiled=[model.forward],
        resume=resume,
        best="top1",
        fixed_shapes=True,
    )
    if not is_main_process():
        return None
    assert metric.details is not None  # the run ended with an evaluation
    weights = save_weights(model.state_dict(), work_dir / "model.pth", to_yaml(config), runner.model_meta)
    seconds = time.perf_counter() - started
    subtitle = f"{type(model).__name__}-{options.size}, fine-tuned on {training.root}"
    page = start_page("Image classification", subtitle, metric.numbers, metric.details)
    splits = [training, validation]
    unread = runner.unread_pictures()
    files = write_report(page, metric.numbers, metric.details, config, splits, work_dir, seconds, weights, unread)
    log_done(metric.numbers, [weights, *files], seconds)
    return page


def build_model(config: FinetuningConfig, classes: int) -> Classifier:
    """Returns the classifier of the tree. Raises UserError for dimensions that can't be."""
    options = config.model
    try:
        return FAMILIES[options.arch](
            options.size,
            classes,
            options.img_size,
            options.drop_path,
            config.runtime.checkpoint_activations,
            in_chans=options.in_chans,
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def test(config: FinetuningConfig, checkpoint: Path, work_dir: Path) -> Page | None:
    """Evaluates a classifier on the validation pictures; writes ``config.yaml``, ``metrics.json`` and ``report/index.html``.

    Returns the report's page (None on other processes than the first). Raises UserError for weights of another model.
    """
    started = time.perf_counter()
    validation = read_split(config.data, config.data.val, config.model.in_chans)
    model = build_model(config, len(validation.classes))
    check_classes(checkpoint, known_classes(read_meta(checkpoint)), validation.folders, validation.root, _FOLDERS)
    report = load_checkpoint(model, checkpoint)
    check_filled(report, checkpoint, len(validation.classes), "head.")
    log.info(str(report))
    metric = ClassificationMetric(validation.classes)
    evaluate(
        ClassificationModel(model, 0.0),
        EvalSet(validation, config.model.img_size, config.data.test_crop),
        metrics=[metric],
        config=config,
        work_dir=work_dir,
        batch_size=64,
    )
    if not is_main_process():
        return None
    assert metric.details is not None
    seconds = time.perf_counter() - started
    save_config(config, work_dir / "config.yaml")
    page = start_page("Image classification", f"{checkpoint}, on {validation.root}", metric.numbers, metric.details)
    files = write_report(page, metric.numbers, metric.details, config, [validation], work_dir, seconds, checkpoint)
    log_done(metric.numbers, files, seconds)
    return page


def linear_probe(config: ProbeConfig, work_dir: Path) -> Page:
    """Trains linear classifiers on frozen features, one for each learning rate, and reports the best."""
    started = time.perf_counter()
    rates = config.linear.lrs
    if not rates or min(rates) <= 0:
        raise UserError(f"linear.lrs is {rates}; expected learning rates such as [0.1, 1.0].")
    if config.linear.warmup >= config.linear.epochs:
        raise UserError(
            f"linear.warmup is {config.linear.warmup}; expected less than linear.epochs, which is {config.linear.epochs}."
        )
    training, validation, views, val = _features(config, config.linear.views)
    device = resolve_device(config.runtime.device)
    probes = train_probes(views, val.values, len(training.classes), config.linear, config.runtime.seed, device)
    results = {probe.lr: _score(probe.probabilities, val, training.classes) for probe in probes}
    best = max(results, key=lambda lr: results[lr][0]["top1"])
    page = start_page("Linear probe", f"{config.model.init}, {training.root}", *results[best])
    page.table(
        "Learning rates",
        ["rate at a batch of 256", "training loss", "top-1", "top-5"],
        [
            [f"{probe.lr:g}", probe.loss, *(Share(results[probe.lr][0][name]) for name in ("top1", "top5"))]
            for probe in probes
        ],
        "The best by validation top-1 is the one reported.",
    )
    return _finish(page, results[best], {"lr": best}, config, [training, validation], work_dir, started)


def knn(config: ProbeConfig, work_dir: Path) -> Page:
    """Classifies frozen features by their weighted nearest neighbours and reports the first number of them."""
    started = time.perf_counter()
    training, validation, (train,), val = _features(config)
    ks = config.knn.ks
    if not ks or min(ks) < 1:
        raise UserError(f"knn.ks is {ks}; expected numbers of neighbours such as [10, 20].")
    device = resolve_device(config.runtime.device)
    votes = knn_scores(train, val, len(training.classes), ks, config.knn.temperature, device)
    results = {k: _score(votes[k], val, training.classes) for k in ks}
    repeated = int(torch.isin(val.contents, train.contents).sum())
    if repeated:
        log.info(f"{repeated} validation pictures are training pictures, too: none is counted as its own neighbour")
    page = start_page("Nearest neighbours", f"{config.model.init}, {training.root}", *results[ks[0]])
    page.table(
        "Numbers of neighbours",
        ["k", "top-1", "top-5"],
        [[str(k), *(Share(results[k][0][name]) for name in ("top1", "top5"))] for k in ks],
        f"{repeated:,} validation pictures are training pictures, too; none is its own neighbour." if repeated else "",
    )
    return _finish(page, results[ks[0]], {"k": ks[0]}, config, [training, validation], work_dir, started)


def _features(config: ProbeConfig, views: int = 0) -> tuple[ClassFolder, ClassFolder, list[Features], Features]:
    if get_world_size() > 1:
        raise UserError(
            "A probe runs in one process, for its features are soon computed: start it without torchrun or srun."
        )
    encoder = probed_encoder(config.model.init, config.model.in_chans)
    training, validation = read_splits(config.data, encoder.in_chans)
    numbers = range(1, views + 1) if views else [0]
    train = [read_features(config, training, encoder, number) for number in numbers]
    return training, validation, train, read_features(config, validation, encoder)


def _score(scores: torch.Tensor, val: Features, classes: list[str]) -> tuple[dict[str, float], Details]:
    return score(Prediction.of(scores, val.labels, torch.arange(len(val.labels))), classes)


def _finish(
    page: Page,
    result: tuple[dict[str, float], Details],
    chosen: dict[str, float],
    config: ProbeConfig,
    splits: list[ClassFolder],
    work_dir: Path,
    started: float,
) -> Page:
    numbers, details = {**result[0], **chosen}, result[1]
    save_config(config, work_dir / "config.yaml")
    seconds = time.perf_counter() - started
    files = write_report(page, numbers, details, config, splits, work_dir, seconds, Path(config.model.init))
    log_done(numbers, files, seconds)
    return page
