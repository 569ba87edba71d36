"""mmengine's loops over the steps of a run and its evaluations: steps that repeat, and a stop that loses none."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.runner import BaseLoop, ValLoop
from torch import nn

from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.engine.precision import autocast
from convmae.engine.processes import any_process, tell_all
from convmae.engine.schedule import Schedule
from convmae.engine.seeding import STEP, StepSampler, seed_all

if TYPE_CHECKING:
    from convmae.engine.runner import Runner
    from convmae.engine.unreadable import Batch


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and did, after its step, with a checkpoint written."""


class TrainLoop(BaseLoop):
    """A loop over optimiser steps, each the sum of its parts, under generators set from (seed, step)."""

    def __init__(self, runner: Runner, dataloader: Any, schedule: Schedule, fixed_shapes: bool = False) -> None:
        super().__init__(runner, dataloader)
        self.schedule = schedule
        self.fixed_shapes = fixed_shapes
        self.sampler: StepSampler = self.dataloader.batch_sampler
        self._iter = 0
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
        """Trains to the end of the schedule. Raises Interrupted after a checkpoint if a signal asks to stop."""
        runner, schedule = self.runner, self.schedule
        self.sampler.start_step = self._iter
        runner.optim_wrapper.initialize_count_status(
            runner.model, self._iter * self.sampler.parts, schedule.total * self.sampler.parts
        )
        runner.call_hook("before_train")
        if self._iter and self.is_evaluated():
            runner.val_loop.run()  # a resumed run may have been ended between the checkpoint and the evaluation of a step
        self._begin_steps()
        with _stop_signals() as stop:
            batches = iter(self.dataloader)
            while self._iter < schedule.total:
                self.run_step(batches)
                stopping, news = any_process(stop.is_set(), bool(self.runner.unread.news))
                if news:
                    self.runner.unread.tell(self._keep)
                if stopping and self._iter < schedule.total:
                    path = self._keep()
                    runner.call_hook("after_train")
                    raise Interrupted(
                        f"Stopped after step {self._iter} of {schedule.total}; {path} continues with --resume."
                    )
                if self.is_evaluated():
                    runner.val_loop.run()
                    self._begin_steps()
            del batches  # ends the loader processes now; at the interpreter's exit they would be killed, and say so
        runner.call_hook("after_train")
        return runner.model

    def _keep(self) -> Path:
        """Writes a checkpoint after the steps done; all processes call it, and none leaves before it is written."""
        path: Path = tell_all(self.runner.write_checkpoint(self._iter))
        return path

    def _begin_steps(self) -> None:
        """Has the model train, and cuDNN try its ways to convolve where they are tried once."""
        self.runner.model.train()
        torch.backends.cudnn.benchmark = self.fixed_shapes

    def is_evaluated(self) -> bool:
        """Whether there is an evaluation after the steps done."""
        step, every = self._iter, self.schedule.eval_every
        return self.runner.val_loop is not None and (step == self.schedule.total or bool(every and step % every == 0))

    def _read(self, batches: Iterator[Batch]) -> Any:
        """Returns the next batch; keeps what the run has learnt, where one process can alone, if a picture can't be read."""
        try:
            return self.runner.unread.take(next(batches))
        except UserError:
            if self._iter and get_world_size() == 1:
                path = self.runner.write_checkpoint(self._iter)
                log.warning(f"a picture can't be read; {path} continues with --resume once the file is mended")
            raise

    def run_step(self, batches: Iterator[Batch]) -> None:
        """Does one optimiser step of a model in training mode: reads, computes and accumulates its parts."""
        runner = self.runner
        runner.call_hook("before_train_iter", batch_idx=self._iter)
        outputs: dict[str, torch.Tensor] = {}
        for part in range(self.sampler.parts):
            batch = self._read(batches)
            seed_all(runner.seed or 0, STEP, self._iter, part)
            runner.begin_part()
            logged = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
            for name, value in logged.items():
                outputs[name] = outputs.get(name, 0.0) + value.detach() / self.sampler.parts
        if runner.average:
            runner.average.update()
        runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=outputs)
        self._iter += 1


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


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C or SIGTERM sets; a second signal has its usual effect at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        stop.set()
        if is_main_process():  # by the system's own call: the signal may have come in the middle of a print
            os.write(2, b"\nStops after this step and its checkpoint; once more: at once.\n")
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
