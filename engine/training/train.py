"""Training and evaluation: from a model, a data set and a configuration tree to mmengine's runner."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_dist_info, is_distributed
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch.utils.data import Dataset, default_collate

from convmae.engine.config import differing_options, to_yaml
from convmae.engine.curves.trackers import check_tracker
from convmae.engine.errors import UserError
from convmae.engine.feeding.pace import Pace
from convmae.engine.log import log
from convmae.engine.machine.allowance import own_cores
from convmae.engine.machine.compilation import Method, check_compiler, compile_methods
from convmae.engine.machine.loading import load
from convmae.engine.machine.memory import check_memory
from convmae.engine.machine.precision import precision_name, resolve_device, set_up
from convmae.engine.machine.sharding import Sharding, check_sharding, in_blocks
from convmae.engine.options import OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.seeding import StepSampler
from convmae.engine.training.batch_norm import synchronise_on_cpu
from convmae.engine.training.checkpoints import find_whole
from convmae.engine.training.hooks import BestHook, LearningRateHook, LogHook, RecipeHook, SkippedStepHook
from convmae.engine.training.loops import EvalLoop, LookLoop, TrainLoop
from convmae.engine.training.optim import build_optim_wrapper, param_groups, scaled_lr
from convmae.engine.training.runner import Runner
from convmae.engine.training.schedule import Schedule
from convmae.engine.training.unreadable import SkippingDataset, UnreadHook, collate_drawn


class TaskConfig(Protocol):
    """The branches that every task's tree has."""

    data: Any
    optim: OptimOptions
    schedule: ScheduleOptions
    runtime: RuntimeOptions


def train(
    model: BaseModel,
    train_set: Dataset,
    *,
    config: TaskConfig,
    work_dir: Path,
    groups: list[dict[str, Any]] | None = None,
    collate: Callable[[list[Any]], Any] = default_collate,
    val_set: Dataset | None = None,
    val_collate: Callable[[list[Any]], Any] | None = None,
    val_batch_size: int = 1,
    metrics: Sequence[BaseMetric] = (),
    hooks: Sequence[Hook] = (),
    compiled: Sequence[Method] = (),
    resume: bool = False,
    best: str | None = None,
    fixed_shapes: bool = False,
    look: Callable[[Runner], dict[str, float]] | None = None,
    look_every: int = 0,
) -> Runner:
    """Trains ``model`` as the tree says and returns the finished runner; where weights are averaged, the model has the average.

    ``groups`` are AdamW's parameter groups (default: ``engine.optim.param_groups``); ``compiled`` are the methods of the
    model's modules that ``runtime.compile`` compiles; ``best`` names the metric whose best weights are kept as ``best.pth``.
    With ``resume`` it continues from the newest whole checkpoint in ``work_dir``, if there is one.
    ``look`` is the task's own evaluation in place of one on ``val_set``, every so many steps and at the end; all processes
    make it together, the model's modes being those of evaluation.
    ``fixed_shapes``: every step's tensors have the same shapes, so that cuDNN's fastest convolutions are worth a search.
    Raises UserError for what can't be trained, Interrupted after a signal.
    """
    if config.runtime.compile and config.runtime.compile_mode == "reduce-overhead" and config.data.accumulate > 1:
        raise UserError(
            f"runtime.compile_mode is reduce-overhead and data.accumulate {config.data.accumulate}; expected 1 part, as a CUDA "
            "graph writes each part's gradients over those of the one before. Take runtime.compile_mode=default."
        )
    check_tracker(config.runtime.tracker)
    device, dtype = set_up(config.runtime)
    if config.runtime.shard:
        check_sharding(dtype, config.runtime.compile_mode if config.runtime.compile else "")
    rank, world = get_dist_info()
    check_memory(model, config.optim.average > 0, device, world if config.runtime.shard else 1)
    length = len(train_set)  # type: ignore[arg-type]
    try:
        sampler = StepSampler(
            length,
            config.data.batch_size,
            config.runtime.seed,
            parts=config.data.accumulate,
            rank=rank,
            world=world,
        )
    except ValueError as error:
        raise UserError(f"{error}: change data.batch_size, data.accumulate or the number of processes.") from None
    schedule = Schedule.build(config.schedule, length, config.data.batch_size)
    if val_set is None:
        schedule = dataclasses.replace(schedule, eval_every=look_every)
    pictures = SkippingDataset(train_set, config.runtime.seed, config.data.on_bad_image == "skip")
    unread = UnreadHook(pictures, config.data)
    batches = functools.partial(collate_drawn, collate)
    parts = config.data.accumulate
    loader = load(pictures, config.data, device, parts=parts, batch_sampler=sampler, collate_fn=batches)
    pace = Pace(config.data, loader.num_workers, own_cores(), device)
    groups = param_groups(model, config.optim) if groups is None else groups
    sharding = _shard(model, groups, device) if config.runtime.shard else None
    recipe = to_yaml(config)
    start = find_whole(work_dir) if resume else None
    every = config.runtime.log_every or max(1, schedule.total // 100)
    runner = Runner(
        device=device,
        dtype=dtype,
        average=config.optim.average,
        model=model,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={"type": TrainLoop, "schedule": schedule, "pace": pace, "fixed_shapes": fixed_shapes},
        optim_wrapper=build_optim_wrapper(groups, config.optim, config.data, device, dtype),
        custom_hooks=[
            RecipeHook(work_dir, recipe),
            LearningRateHook(schedule, scaled_lr(config.optim, config.data)),
            LogHook(work_dir, every, schedule.total, config.runtime.tracker, recipe),
            SkippedStepHook(config.runtime.bad_steps),
            unread,
            BestHook(best, recipe),
            *hooks,
        ],
        start=start,
        unread=unread,
        launcher="pytorch" if is_distributed() else "none",
        randomness={"seed": config.runtime.seed},
        **_evaluation(val_set, metrics, config, val_collate or collate, val_batch_size),
    )
    if look:
        runner._val_loop = LookLoop(runner, look)
    if config.runtime.compile:
        check_compiler(device)
        compile_methods(in_blocks(compiled) if sharding else compiled, config.runtime.compile_mode)
        if config.runtime.compile_mode == "reduce-overhead":
            runner.begin_part = torch.compiler.cudagraph_mark_step_begin
    announce_run(model, config, schedule, length, device, dtype, world)
    log.info(pace.describe())
    if sharding:
        log.info(f"weights, gradients and moments are split over {world} processes, in {len(sharding.before)} parts")
    if start:
        log.info(f"continues from {start.path.name}" if start.path else "no checkpoint yet: starts from step 0")
    if start and start.path:
        _tell_changes(work_dir / "config.yaml", config)
    runner.train()
    if runner.average:
        runner.average.swap()
    if sharding:
        sharding.undo()
    return runner


def _shard(model: BaseModel, groups: list[dict[str, Any]], device: torch.device) -> Sharding:
    """Splits a model over the processes, and has the optimiser's groups name its new parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    model.to(device)
    sharding = Sharding(synchronise_on_cpu(model) if device.type == "cpu" else model, device)
    parameters = dict(model.named_parameters())
    for group in groups:
        group["params"] = [parameters[names[id(one)]] for one in group["params"]]
    return sharding


def evaluate(
    model: BaseModel,
    dataset: Dataset,
    *,
    metrics: Sequence[BaseMetric],
    config: TaskConfig,
    work_dir: Path,
    collate: Callable[[list[Any]], Any] = default_collate,
    batch_size: int = 1,
) -> dict[str, float]:
    """Runs ``model`` over a data set and returns the metrics; over several processes each picture counts once."""
    device, dtype = set_up(config.runtime)
    runner = Runner(
        device=device,
        dtype=dtype,
        model=model,
        work_dir=str(work_dir),
        launcher="pytorch" if is_distributed() else "none",
        randomness={"seed": config.runtime.seed},
        **_evaluation(dataset, metrics, config, collate, batch_size),
    )
    return runner.val()


def announce_run(
    model: BaseModel,
    config: TaskConfig,
    schedule: Schedule,
    pictures: int,
    device: torch.device,
    dtype: torch.dtype | None,
    world: int,
) -> None:
    """Logs what the run is about to do."""
    for note in config.schedule.notes:
        log.info(note)
    size, trained = (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not only) / 1e6
        for only in (False, True)
    )
    of_them = f" ({trained:.2f} M trained, {size - trained:.2f} M frozen)" * (trained < size)
    batch, parts = config.data.batch_size, world * config.data.accumulate
    epochs = schedule.total * batch / pictures
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    log.info(
        f"model: {size:.2f} M parameters{of_them}, on {where}, {world} process{'es' * (world > 1)}, {precision_name(dtype)}"
        + ", fp32 as TF32" * (config.runtime.tf32 and device.type == "cuda")
    )
    log.info(
        f"training: {pictures} pictures, {schedule.total} steps of {batch} ({epochs:.4g} epochs)"
        + (f", each in {parts} parts of {batch // parts}" if parts > 1 else "")
        + f", learning rate {scaled_lr(config.optim, config.data):.3g}"
        + (f" ({config.optim.lr:g} for {config.optim.lr_batch} pictures)" if config.optim.lr_batch else "")
        + f", {config.schedule.policy} after {schedule.warmup} steps of warm-up; a checkpoint every {schedule.save_every} steps"
        + (f" and {config.schedule.save_minutes:g} minutes" if config.schedule.save_minutes else "")
        + (f", an evaluation every {schedule.eval_every}" if schedule.eval_every else "")
    )


def _tell_changes(kept: Path, config: TaskConfig) -> None:
    """Warns of options that a continued run has changed, as far as its recipe tells."""
    try:
        changes = differing_options(kept, config) if kept.is_file() else []
    except UserError as error:
        log.warning(f"whether options have changed can't be told: {error}")
        return
    for name, before, now in changes:
        log.warning(f"continues with {name} {now or 'empty'}, not {before or 'empty'} as before")


def _evaluation(
    dataset: Dataset | None, metrics: Sequence[BaseMetric], config: TaskConfig, collate: Callable, batch_size: int
) -> dict[str, Any]:
    if dataset is None:
        return {}
    if not hasattr(dataset, "metainfo"):
        dataset.metainfo = {}  # type: ignore[attr-defined]  # mmengine's loops look for it
    loader = load(
        dataset,
        config.data,
        resolve_device(config.runtime.device),
        batch_size=batch_size,
        sampler=DefaultSampler(dataset, shuffle=False),
        collate_fn=collate,
    )
    return {"val_dataloader": loader, "val_cfg": {"type": EvalLoop}, "val_evaluator": Evaluator(list(metrics))}
