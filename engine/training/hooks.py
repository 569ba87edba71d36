"""What happens beside the steps of a run: learning rate, log, skipped steps, the best weights."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from tqdm import tqdm

from convmae.engine.curves.tensorboard import Curves
from convmae.engine.curves.trackers import Tracker
from convmae.engine.errors import UserError
from convmae.engine.feeding.pace import Pace
from convmae.engine.files import read_meta, save_weights, write_whole
from convmae.engine.log import duration, log
from convmae.engine.machine.processes import tell_all, world_mean
from convmae.engine.machine.sharding import gathered
from convmae.engine.run_files import claim
from convmae.engine.text import decimals
from convmae.engine.training.checkpoints import BEST
from convmae.engine.training.optim import AutocastOptimWrapper
from convmae.engine.training.runner import Runner
from convmae.engine.training.scalars import SCALARS, append_row, cut_scalars
from convmae.engine.training.schedule import Schedule


class RecipeHook(Hook):
    """Writes ``recipe`` as the run's ``config.yaml`` when it begins: once a checkpoint that it continues was found to fit."""

    def __init__(self, work_dir: Path, recipe: str) -> None:
        self.path, self.recipe = work_dir / "config.yaml", recipe

    def before_train(self, runner: Runner) -> None:
        if is_main_process():
            write_whole(self.path, self.recipe)


class LearningRateHook(Hook):
    """Sets each group's learning rate from the step."""

    def __init__(self, schedule: Schedule, lr: float) -> None:
        self.schedule, self.lr = schedule, lr

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        rate = self.lr * self.schedule.lr_factor(batch_idx)
        for group in runner.optim_wrapper.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)


class LogHook(Hook):
    """Writes means of each loss, over steps and processes, to log, ``scalars.jsonl`` and TensorBoard; a bar on a terminal.

    ``tracker``: one that gets them, too, with the ``recipe``; "none" for none.
    """

    priority = "VERY_LOW"

    def __init__(self, work_dir: Path, every: int, total: int, tracker: str = "none", recipe: str = "") -> None:
        self.work_dir, self.every, self.total = work_dir, every, total
        self.kind, self.recipe = tracker, recipe
        self.sums: dict[tuple[str, ...], torch.Tensor] = {}  # [2, losses] by their names: finite values, and how many
        self.count = 0
        self.due = 0  # the step whose line is not written yet
        self.bar: tqdm | None = None
        self.writer: Curves | None = None
        self.tracker: Tracker | None = None

    def before_train(self, runner: Runner) -> None:
        self.started = self.since = time.perf_counter()
        self.first = runner.iter
        if not is_main_process():
            return
        # From step 0 too: a run that was killed before its first checkpoint has left rows.
        cut_scalars(self.work_dir, self.first, runner.train_loop.is_evaluated())
        folder = self.work_dir / "tensorboard"
        before = set(folder.glob("*"))
        self.writer = Curves(folder, self.first + 1)
        for path in [self.work_dir / SCALARS, *set(folder.glob("*")) - before]:
            claim(path)
        if self.kind != "none":
            self.tracker = Tracker(self.kind, self.work_dir, self.recipe)
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.total, initial=self.first, unit="step", dynamic_ncols=True, leave=False)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, torch.Tensor] | None = None
    ) -> None:
        if outputs:
            names, values = tuple(outputs), torch.stack([value.float() for value in outputs.values()])
            known = values.isfinite()
            both = torch.stack([values.where(known, 0.0), known.float()])
            self.sums[names] = self.sums[names] + both if names in self.sums else both
        self.count += 1
        step = batch_idx + 1
        if self.bar is not None:
            self.bar.update()
        if step % self.every and step != self.total:
            return
        self.due = step
        self._tell(runner, step, self._means(runner.device))

    def _tell(self, runner: Runner, step: int, row: dict[str, float]) -> None:
        """Writes the line of a step, whose losses ``row`` has."""
        now = time.perf_counter()
        losses = "  ".join(f"{name} {value:.4f}" for name, value in row.items())
        row["lr"] = max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)
        row["seconds_per_step"] = (now - self.since) / self.count
        left = (now - self.started) / (step - self.first) * (self.total - step)
        pace: Pace = runner.train_loop.pace
        row |= pace.row(now - self.since, self.count)
        log.info(
            f"step {step}/{self.total}  {losses}  lr {row['lr']:.2e}  {row['seconds_per_step']:.3f} s/step  "
            f"{decimals(row['pictures_per_second'], 1)} pictures/s  waiting {row['waiting']:.0%}  "
            f"memory {row['memory_gib']:.1f} GiB  to go {duration(left)}"
        )
        if advice := pace.advise(row["waiting"], step - self.count - self.first):
            log.warning(advice)
        self.write(step, row)
        self.sums.clear()
        self.count, self.since, self.due = 0, now, 0

    def before_val_epoch(self, runner: Runner) -> None:
        self.paused = time.perf_counter()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if metrics and runner._train_loop is not None:
            log.info(f"step {runner.iter}/{self.total}  " + "  ".join(f"{k} {v:.4f}" for k, v in metrics.items()))
            self.write(runner.iter, metrics)
        self.since += time.perf_counter() - self.paused

    def after_train(self, runner: Runner) -> None:
        self.close()

    def after_failure(self, runner: Runner, stuck: bool) -> None:
        # The run continues after the step that is due, whose line would be missing. What failed may fail here, too.
        if self.due and is_main_process() and not stuck:
            with suppress(UserError, RuntimeError):
                if get_world_size() > 1:
                    log.warning(f"the losses of step {self.due} are of this process alone")
                self._tell(runner, self.due, self._means())
        with suppress(UserError):
            self.close()

    def close(self) -> None:
        """Ends the bar, the TensorBoard file and what a tracker gets."""
        if self.bar is not None:
            self.bar.close()
        if self.tracker is not None:
            self.tracker.close()
        if self.writer is not None:
            self.writer.close()

    def _means(self, device: torch.device | None = None) -> dict[str, float]:
        """Returns each loss's mean over the steps since the last line; none was finite: it is left out.

        ``device``: by which all processes average theirs; None: they can't any more, and the means are of this one.
        """
        totals: dict[str, tuple[float, float]] = {}
        for names, sums in self.sums.items():
            for name, total, known in zip(names, *sums.tolist(), strict=True):
                before = totals.get(name, (0.0, 0.0))
                totals[name] = before[0] + total, before[1] + known
        if not totals:
            return {}
        means = list(totals.values())
        if device is not None:
            means = world_mean(*itertools.chain(*means), device=device).view(-1, 2).tolist()
        return {name: total / known for name, (total, known) in zip(totals, means, strict=True) if known}

    def write(self, step: int, row: dict[str, float]) -> None:
        """Appends one row of scalars."""
        if self.writer is None:
            return
        append_row(self.work_dir, step, row)
        self.writer.add(step, row)
        if self.tracker is not None:
            self.tracker.add(step, row)


class SkippedStepHook(Hook):
    """Names the pictures of steps that were skipped for a gradient that is not finite, and ends a run of ``limit`` such steps.

    It looks at a step once the next one is under way, at a copy made meanwhile, so that no GPU stands still for it. The
    optimiser leaves the weights as they were; this hook does the same for batch norm's running statistics, which the forward
    pass has changed.
    """

    NAMES = 8  # pictures named of a step

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = self.in_a_row = 0
        self.told: deque[tuple[int, torch.Tensor, torch.cuda.Event | None]] = deque()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if len(self.told) > 1:  # here, as a run that ends between two steps leaves a checkpoint of all that were done
            self._look(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        skipped = cast(AutocastOptimWrapper, runner.optim_wrapper).skipped
        runner.whole.put_back(skipped.bool())
        told = skipped.to("cpu", non_blocking=True)
        copied = torch.cuda.current_stream().record_event() if skipped.is_cuda else None
        self.told.append((batch_idx, told, copied))

    def after_train(self, runner: Runner) -> None:
        while self.told:
            self._look(runner)

    def _look(self, runner: Runner) -> None:
        step, skipped, copied = self.told.popleft()
        if copied:
            copied.synchronize()
        if not skipped:
            self.in_a_row = 0
            return
        self.count, self.in_a_row = self.count + 1, self.in_a_row + 1
        loader = runner.train_dataloader
        samples = loader.batch_sampler.samples(step)
        names = ", ".join(loader.dataset.name(index) for index in samples[: self.NAMES])
        more = f" and {len(samples) - self.NAMES} more" if len(samples) > self.NAMES else ""
        log.warning(
            f"step {step + 1} skipped: its gradient is not finite ({self.count} so far). Its pictures: {names}{more}"
        )
        if self.in_a_row >= self.limit:
            raise UserError(
                f"The gradient was not finite in {self.in_a_row} steps in a row, the last being step {step + 1}; none of them "
                "changed the weights. Lower optim.lr, set optim.clip_grad or take runtime.precision=fp32."
            )


class BestHook(Hook):
    """Keeps the weights that are best by a metric beside the checkpoints."""

    FILE = BEST

    def __init__(self, best: str | None, recipe: str) -> None:
        self.best, self.recipe = best, recipe
        self.best_value = float("-inf")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        value = (metrics or {}).get(self.best or "")
        if value is None or not tell_all(value > self.best_value):
            return
        self.best_value = value
        weights = gathered(runner.bare_model.state_dict(), is_main_process())
        if is_main_process():
            self.write(runner, weights, {**runner.model_meta, "step": runner.iter, "metric": self.best, "value": value})

    def write(self, runner: Runner, weights: dict[str, Any], meta: dict[str, Any]) -> None:
        """Writes what is best so far, of the model's whole weights, with what is to be said of it."""
        save_weights(weights, Path(runner.work_dir) / self.FILE, self.recipe, meta)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        best = Path(runner.work_dir) / self.FILE  # later than the checkpoint, if the run was ended between the two
        if not best.is_file():
            return
        value = read_meta(best).get("value")
        if isinstance(value, (int, float)) and math.isfinite(value):
            self.best_value = value
        else:
            log.warning(f"{self.FILE} tells no {self.best}, so the next evaluation replaces it")
