"""mmengine's loops over the steps of a run and its evaluations: steps that repeat, and an end that loses none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import is_main_process
from mmengine.runner import BaseLoop, ValLoop
from torch import nn

from convmae.engine.errors import START_AGAIN, STOPPED, Interrupted
from convmae.engine.feeding.pace import Pace
from convmae.engine.log import log
from convmae.engine.machine.failures import EndedElsewhereError
from convmae.engine.machine.precision import autocast
from convmae.engine.machine.processes import any_process, tell_all
from convmae.engine.machine.restarts import is_orphan
from convmae.engine.machine.stop_signals import Stop, stop_signals
from convmae.engine.seeding import STEP, StepSampler, kept_generators, seed_all
from convmae.engine.training.checkpoints import checkpoint_path
from convmae.engine.training.schedule import Schedule
from convmae.engine.training.whole_steps import keep_whole_step

if TYPE_CHECKING:
    from convmae.engine.training.runner import Runner
    from convmae.engine.training.unreadable import Batch


class TrainLoop(BaseLoop):
    """A loop over optimiser steps, each the sum of its parts, under generators set from (seed, step)."""

    def __init__(
        self, runner: Runner, dataloader: Any, schedule: Schedule, pace: Pace, fixed_shapes: bool = False
    ) -> None:
        super().__init__(runner, dataloader)
        self.schedule, self.pace = schedule, pace
        self.fixed_shapes = fixed_shapes
        self.sampler: StepSampler = self.dataloader.batch_sampler
        self._iter = 0
        self._kept, self._kept_at = 0, time.monotonic()  # the step of the last checkpoint, and when it was
        self.epoch = 0
        self.max_epochs = 1
        self.stop_training = False

    @property
    def iter(self) -> int:
        """Optimiser steps done."""
        return self._iter

    @property
    def max_iters(self) -> int:
        """Optimiser steps in all."""
        return self.schedule.total

    def run(self) -> nn.Module:
        """Trains to the end of the schedule. Raises Interrupted after a checkpoint if a signal asks to stop.

        Whatever fails leaves a checkpoint of the last whole step, where that can be written.
        """
        runner = self.runner
        self.sampler.start_step = self._kept = self._iter
        runner.optim_wrapper.initialize_count_status(
            runner.model, self._iter * self.sampler.parts, self.schedule.total * self.sampler.parts
        )
        runner.call_hook("before_train")
        self._begin_steps()
        with stop_signals() as stop:
            try:
                self._go(stop)
                runner.call_hook("after_train")
            except Interrupted:
                raise
            except Exception as error:
                keep_whole_step(runner, error, self._kept)
                raise
        return runner.model

    def _go(self, stop: Stop) -> None:
        """Repeats: reads a step, agrees with the other processes on what is next, evaluates what is done, computes."""
        # Closed, as an error, whose frames hold it, would keep the loader processes.
        with closing(iter(self.dataloader)) as batches:
            while True:
                parts, failure = self._read(batches) if self._iter < self.schedule.total else ([], None)
                self._settle(failure, stop)
                # Before the next step, as a resumed run may have ended between a step's checkpoint and its evaluation.
                if self._iter and self.is_evaluated():
                    self.runner.val_loop.run()
                    self._begin_steps()
                if self._iter == self.schedule.total:
                    break
                self.run_step(parts)

    def _settle(self, failure: Exception | None, stop: Stop) -> None:
        """Has all processes write a checkpoint after the steps done if it is time for one, and end together if one has to."""
        failed = stopping = again = late = news = False
        if self._iter < self.schedule.total:
            limit = 60 * self.schedule.options.save_minutes
            late = 0 < limit <= time.monotonic() - self._kept_at
            news = bool(self.runner.unread.news)
            if is_orphan():
                log.error("torchrun is gone, which started this process: the run stops")
                stop.set()
            stopping, again = stop.is_set(), stop.status == START_AGAIN
            failed, stopping, again, late, news = any_process(failure is not None, stopping, again, late, news)
        if news:
            refusal = self.runner.unread.tell()
            failed = failed or refusal is not None
            failure = failure or (refusal if is_main_process() else None)  # one of them says it
        if failed or stopping or late or self.is_kept():
            self._keep()
        if failed:
            raise failure or EndedElsewhereError
        if stopping:
            self.runner.call_hook("after_train")
            path = checkpoint_path(Path(self.runner.work_dir), self._iter)
            raise Interrupted(
                f"Stopped after step {self._iter} of {self.schedule.total}; {path} continues with --resume."
                if self._iter
                else "Stopped before the first step.",
                START_AGAIN if again else STOPPED,
            )

    def _keep(self) -> Path:
        """Writes a checkpoint after the steps done, unless it is there; none of the processes leaves before it is."""
        path = checkpoint_path(Path(self.runner.work_dir), self._iter)
        if self._iter != self._kept:
            self._kept = self._iter  # even if it fails: to try again would fail, too
            tell_all(self.runner.write_checkpoint(self._iter))
            self._kept_at = time.monotonic()
        return path

    def is_kept(self) -> bool:
        """Whether a checkpoint is written after the steps done, whatever the time: an evaluation follows one."""
        step, every = self._iter, self.schedule.save_every
        return step % every == 0 or step == self.schedule.total or self.is_evaluated()

    def _begin_steps(self) -> None:
        """Has the model train, and cuDNN try its ways to convolve where they are tried once."""
        self.runner.model.train()
        torch.backends.cudnn.benchmark = self.fixed_shapes

    def is_evaluated(self) -> bool:
        """Whether there is an evaluation after the steps done."""
        step, every = self._iter, self.schedule.eval_every
        return self.runner.val_loop is not None and (step == self.schedule.total or bool(every and step % every == 0))

    def _read(self, batches: Iterator[Batch]) -> tuple[list[dict[str, Any]], Exception | None]:
        """Returns the batches of a step's parts, or why they can't be read.

        All are read before any is computed, as then a process that can't go on can still tell the others. They are a step's
        pictures in the host's memory, no more than a run without parts holds.
        """
        try:
            with self.pace.reading():
                return [self.runner.unread.take(next(batches)) for _ in range(self.sampler.parts)], None
        except Exception as error:
            return [], error

    def run_step(self, parts: list[dict[str, Any]]) -> None:
        """Does one optimiser step of a model in training mode: computes and accumulates its parts."""
        runner = self.runner
        runner.call_hook("before_train_iter", batch_idx=self._iter)
        outputs: dict[str, torch.Tensor] = {}
        for part in range(self.sampler.parts):
            batch = parts.pop(0)  # none is held longer than it is used
            seed_all(runner.seed or 0, STEP, self._iter, part)
            runner.begin_part()
            logged = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
            for name, value in logged.items():
                outputs[name] = outputs.get(name, 0.0) + value.detach() / self.sampler.parts
        if runner.average:
            runner.average.update()
        runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=outputs)
        self._iter += 1


class LookLoop(BaseLoop):
    """An evaluation that a task does by itself, on all processes, and that leaves nothing changed in the model."""

    def __init__(self, runner: Runner, look: Callable[[Runner], dict[str, float]]) -> None:
        super().__init__(runner, None)
        self.look = look

    def run(self) -> dict[str, float]:
        runner = self.runner
        torch.backends.cudnn.benchmark = False
        runner.call_hook("before_val_epoch")
        with runner.average.in_place() if runner.average else nullcontext(), kept_generators():
            runner.model.eval()
            numbers = self.look(runner)
            runner.call_hook("after_val_epoch", metrics=numbers)
        return numbers


class EvalLoop(ValLoop):
    """mmengine's evaluation loop in the run's precision, of one model whatever the number of processes."""

    def run(self) -> dict[str, float]:
        torch.backends.cudnn.benchmark = False  # pictures of any size may come
        self.runner.average_norms()
        with self.runner.average.in_place() if self.runner.average else nullcontext():
            return super().run()

    def run_iter(self, idx: int, data_batch: Any) -> None:
        with autocast(self.runner.device, self.runner.dtype):
            super().run_iter(idx, data_batch)
