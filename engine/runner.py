"""mmengine's runner, with files that a crash can't tear, checkpoints that can't run code, and steps that repeat."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import mmengine.runner
import torch
from mmengine.dist import all_reduce_params, get_world_size, is_main_process
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel, is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import BaseLoop, ValLoop
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from convmae.engine.average import WeightAverage
from convmae.engine.errors import UserError
from convmae.engine.files import save_atomically
from convmae.engine.log import log
from convmae.engine.precision import autocast
from convmae.engine.processes import any_process, tell_all
from convmae.engine.schedule import Schedule
from convmae.engine.seeding import STEP, StepSampler, seed_all

CHECKPOINT_PATTERN, BEST = "step_*.pth", "best.pth"
_run_numbers = itertools.count()


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and did, after its step, with a checkpoint written."""


class Runner(mmengine.runner.Runner):
    """mmengine's Runner over built objects: one flat work directory, atomic and safely readable checkpoints, any device."""

    def __init__(self, *, device: torch.device, dtype: torch.dtype | None, average: float = 0, **kwargs: Any) -> None:
        self.device, self.dtype = device, dtype
        self.average: WeightAverage | None = None
        self.begin_part: Callable[[], None] = lambda: None  # before each forward pass of a training step
        super().__init__(
            # mmengine keeps loggers and message hubs by this name for the life of the process.
            experiment_name=f"run{next(_run_numbers)}",
            default_hooks=dict.fromkeys(
                ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
            ),
            env_cfg={"mp_cfg": {"mp_start_method": torch.multiprocessing.get_start_method()}},
            **kwargs,
        )
        if average:
            self.average = WeightAverage(self.bare_model, average)

    def setup_env(self, env_cfg: dict) -> None:
        super().setup_env(env_cfg)
        self._timestamp = ""  # mmengine would put its log into a folder of that name

    def set_randomness(self, seed: int | None = None, **_: Any) -> None:
        self._deterministic, self._seed = False, seed  # every step and sample sets its own

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        logger: MMLogger = MMLogger.get_instance(self._experiment_name, log_level="ERROR")
        logger.handlers[0].setLevel(logging.ERROR)  # the run's own hook prints; mmengine only speaks of what goes wrong
        return logger

    def _log_env(self, env_cfg: dict) -> None:
        """The report holds versions and device; mmengine's own table would take seconds to collect."""

    def dump_config(self) -> None:
        """The tree is written as YAML by ``engine.train``."""

    def _init_model_weights(self) -> None:
        """The task built and filled its model."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        model = model.to(self.device)
        if not self.distributed:
            return revert_sync_batchnorm(model)
        shared: dict[str, Any] = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
        if self.device.type == "cpu":
            # SyncBatchNorm refuses to train on CPU.
            return MMDistributedDataParallel(module=revert_sync_batchnorm(model), **shared)
        return MMDistributedDataParallel(module=model, device_ids=[torch.cuda.current_device()], **shared)

    @property
    def bare_model(self) -> nn.Module:
        """The model without its wrapper for many processes."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    @property
    def model_meta(self) -> dict[str, Any]:
        """What the weights' files say of the model: its ``dataset_meta``, which names its classes, where it has one."""
        known = getattr(self.bare_model, "dataset_meta", None)
        return {"dataset_meta": known} if known else {}

    def running_statistics(self) -> list[torch.Tensor]:
        """Returns the means and variances that the model's batch norms keep."""
        norms = [module for module in self.bare_model.modules() if isinstance(module, _BatchNorm)]
        return [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]

    def average_norms(self) -> None:
        """Gives every process the mean of their running statistics; plain batch norm counts each process's pictures alone."""
        running = self.running_statistics()
        if running:
            all_reduce_params(running, op="mean")

    def checkpoint(self, step: int) -> dict[str, Any]:
        """Returns all that continuing after ``step`` steps needs, in plain containers and tensors."""
        content = {
            "state_dict": {name: tensor.detach().cpu() for name, tensor in self.bare_model.state_dict().items()},
            "optimizer": self.optim_wrapper.state_dict(),
            "meta": {"step": step, "seed": self._seed, "samples": self._samples(), **self.model_meta},
        }
        if self.average:
            content["average"] = self.average.state_dict()
        self.call_hook("before_save_checkpoint", checkpoint=content)
        return content

    def write_checkpoint(self, step: int) -> Path:
        """Writes ``step_N.pth`` from the main process and returns its path."""
        path = Path(self.work_dir) / CHECKPOINT_PATTERN.replace("*", str(step))
        self.average_norms()
        if self.rank == 0:
            content = self.checkpoint(step)
            save_atomically(lambda file: torch.save(content, file), path)
        return path

    def _samples(self) -> list[int]:
        """Returns how many samples there are and how many a step takes, from which those of each step follow."""
        sampler = self.train_loop.sampler
        return [sampler.length, sampler.batch_size]

    def _check_position(self, meta: dict[str, Any], path: Path) -> None:
        """Raises UserError if the run has no step after a checkpoint's; warns if its samples are drawn otherwise."""
        total, (pictures, batch) = self.train_loop.schedule.total, meta.get("samples", self._samples())
        if meta["step"] > total:
            raise UserError(f"{path} is of a longer run than this one of {total} steps; expected the same schedule.")
        if [pictures, batch] != self._samples():
            now, now_batch = self._samples()
            log.warning(
                f"{path} is of {pictures} pictures in steps of {batch}, this run of {now} in steps of {now_batch}: it goes on "
                "after the same number of steps, with other pictures than an uninterrupted run's"
            )

    def load_or_resume(self) -> None:
        path = latest_checkpoint(Path(self.work_dir)) if self._resume else None
        if path is None:
            return
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            self._check_position(content["meta"], path)
            self.bare_model.load_state_dict(content["state_dict"])
            self.optim_wrapper.load_state_dict(content["optimizer"])
            self.train_loop._iter = content["meta"]["step"]
            if self.average:
                self.average.load_state_dict(content["average"])
        except (KeyError, ValueError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            # torch names the tensors that differ from the second line on.
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2]).rstrip(".") or type(error).__name__
            raise UserError(
                f"{path} does not continue this run: {reason}. Expected a checkpoint that the same "
                "recipe wrote; give another --work-dir, or start anew with --overwrite."
            ) from None
        self.call_hook("after_load_checkpoint", checkpoint=content)


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
                if any_process(stop.is_set()) and self._iter < schedule.total:
                    path = tell_all(runner.write_checkpoint(self._iter))  # none leaves before it is written
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

    def _begin_steps(self) -> None:
        """Has the model train, and cuDNN try its ways to convolve where they are tried once."""
        self.runner.model.train()
        torch.backends.cudnn.benchmark = self.fixed_shapes

    def is_evaluated(self) -> bool:
        """Whether there is an evaluation after the steps done."""
        step, every = self._iter, self.schedule.eval_every
        return self.runner.val_loop is not None and (step == self.schedule.total or bool(every and step % every == 0))

    def _read(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Returns the next batch; keeps what the run has learnt, where one process can alone, if a picture can't be read."""
        try:
            return next(batches)
        except UserError:
            if self._iter and get_world_size() == 1:
                path = self.runner.write_checkpoint(self._iter)
                log.warning(f"a picture can't be read; {path} continues with --resume once the file is mended")
            raise

    def run_step(self, batches: Iterator[dict[str, Any]]) -> None:
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


def latest_checkpoint(work_dir: Path) -> Path | None:
    """Returns the checkpoint of the most steps in a work directory, or None."""
    found = [path for path in work_dir.glob(CHECKPOINT_PATTERN) if path.stem.rpartition("_")[2].isdigit()]
    return max(found, key=lambda path: int(path.stem.rpartition("_")[2]), default=None)


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
