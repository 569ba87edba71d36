"""mmengine's runner, with files that a crash can't tear and checkpoints that can't run code."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmengine.runner
import torch
from mmengine.dist import all_reduce_params, get_world_size
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel, is_model_wrapper, revert_sync_batchnorm
from torch import nn
from torch.distributed.fsdp import FSDPModule

from convmae.engine.class_lists import check_classes, known_classes
from convmae.engine.errors import UserError, unwritable
from convmae.engine.files import save_atomically
from convmae.engine.log import log
from convmae.engine.machine.sharding import gathered, split_like
from convmae.engine.training.average import WeightAverage
from convmae.engine.training.batch_norm import running_statistics, synchronise_on_cpu
from convmae.engine.training.checkpoints import (
    Found,
    checkpoint_path,
    latest_checkpoint,
    list_checkpoints,
    read_checkpoint,
    set_aside,
)
from convmae.engine.training.run_state import check_average, check_optimizer, check_tensors
from convmae.engine.training.unreadable import UnreadHook
from convmae.engine.training.whole_steps import WholeStepHook
from convmae.engine.whole_weights import check_finite

_run_numbers = itertools.count()


class Runner(mmengine.runner.Runner):
    """mmengine's Runner over built objects: one flat work directory, atomic and safely readable checkpoints, any device."""

    def __init__(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        average: float = 0,
        start: Found | None = None,
        unread: UnreadHook | None = None,
        **kwargs: Any,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.start = start  # what it continues from
        self.unread = unread  # the training pictures that can't be read
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
        self.whole = WholeStepHook()
        self.register_hook(self.whole)
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
        if get_world_size() == 1:
            model = revert_sync_batchnorm(model)
        if not self.distributed or isinstance(model, FSDPModule):
            return model
        shared: dict[str, Any] = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
        if self.device.type == "cpu":
            return MMDistributedDataParallel(module=synchronise_on_cpu(model), **shared)
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

    def unread_pictures(self) -> dict[str, str]:
        """Returns why training pictures can't be read, by name."""
        return self.unread.known if self.unread else {}

    def average_norms(self) -> None:
        """Gives every process the mean of the running statistics of plain batch norms, which count its own pictures alone.

        Those of the others are equal already, and would not be, to the bit, after a mean.
        """
        running = running_statistics(self.bare_model, of_all=False)
        if running:
            all_reduce_params(running, op="mean")

    def checkpoint(self, step: int) -> dict[str, Any]:
        """Returns all that continuing after ``step`` steps needs, in plain containers and tensors."""
        kept = self.rank == 0
        content = {
            "state_dict": gathered(self.bare_model.state_dict(), kept),
            "optimizer": gathered(self.optim_wrapper.state_dict(), kept),
            "meta": {"step": step, "seed": self._seed, "samples": self._samples(), **self.model_meta},
        }
        if self.average:
            content["average"] = gathered(self.average.state_dict(), kept)
        self.call_hook("before_save_checkpoint", checkpoint=content)
        return content

    def write_checkpoint(self, step: int, alone: bool = False) -> Path:
        """Writes ``step_N.pth`` from the main process, removes those that are too old, and returns its path.

        ``alone``: without the other processes, which may be gone. Raises UserError for weights that aren't finite, and where
        it can't be written, as none can alone of a model that is split.
        """
        path = checkpoint_path(Path(self.work_dir), step)
        split = isinstance(self.model, FSDPModule)
        if alone and split:
            raise UserError(
                "the other processes have parts of the weights (runtime.shard), and can't be asked any more"
            )
        if not alone:
            self.average_norms()
        content = self.checkpoint(step) if split or self.rank == 0 else {}
        last = latest_checkpoint(path.parent)
        check_finite(
            content["state_dict"] if self.rank == 0 else {} if split else self.bare_model.state_dict(),
            f"After step {step} the weights can't be used, and none were written",
            "Lower optim.lr, set optim.clip_grad or take runtime.precision=fp32"
            + (f"; {last} holds the last checkpoint." if last else "."),
        )
        if self.rank == 0:
            if not path.parent.is_dir():  # a new folder would hold a part of the run
                raise unwritable(path, FileNotFoundError())
            save_atomically(lambda file: torch.save(content, file), path)
            self._remove_old()
        return path

    def _remove_old(self) -> None:
        keep = self.train_loop.schedule.options.keep_checkpoints
        found = list_checkpoints(Path(self.work_dir))
        for path in found[: max(0, len(found) - max(1, keep))] if keep >= 0 else ():
            path.unlink()

    def _samples(self) -> list[int]:
        """Returns how many samples there are and how many a step takes, from which those of each step follow."""
        sampler = self.train_loop.sampler
        return [sampler.length, sampler.batch_size]

    def _check_position(self, meta: dict[str, Any], path: Path) -> None:
        """Raises UserError if the run has no step after a checkpoint's; warns if its samples are drawn otherwise."""
        total, (pictures, batch) = self.train_loop.schedule.total, meta.get("samples") or self._samples()
        if meta["step"] > total:
            raise UserError(f"{path} is of a longer run than this one of {total} steps; expected the same schedule.")
        if [pictures, batch] != self._samples():
            now, now_batch = self._samples()
            log.warning(
                f"{path} is of {pictures} pictures in steps of {batch}, this run of {now} in steps of {now_batch}: it goes on "
                "after the same number of steps, with other pictures than an uninterrupted run's"
            )

    def _check_classes(self, meta: dict[str, Any], path: Path) -> None:
        """Raises UserError if a checkpoint's classes aren't this run's by name and order."""
        own = self.model_meta
        what = "class folders" if "folders" in own.get("dataset_meta", {}) else "classes"
        advice = "a run on others is a new one: give another --work-dir, and these weights by model.init"
        check_classes(path, known_classes(meta), known_classes(own), "the data", what, advice)

    def _check_parts(self, content: dict[str, Any], path: Path) -> None:
        """Raises UserError unless weights, optimiser and average are those of this run's model."""
        check_tensors(content["state_dict"], self.bare_model.state_dict(), path, "state_dict")
        check_optimizer(content["optimizer"], self.optim_wrapper.optimizer, path, content["meta"]["step"])
        if self.average:
            check_average(content.get("average"), self.average.values, path)

    def _own_moments(self, state: dict[str, Any]) -> dict[str, Any]:
        """Returns an optimiser's state with this process's parts of the moments, where the model is split."""
        parameters = [one for group in self.optim_wrapper.optimizer.param_groups for one in group["params"]]
        moments = {
            number: {
                name: split_like(value, parameters[number]) if value.shape == parameters[number].shape else value
                for name, value in kept.items()
            }
            for number, kept in state["state"].items()
        }
        return {**state, "state": moments}

    def load_or_resume(self) -> None:
        if self.start is None or self.start.path is None:
            return
        path, damaged = self.start.path, self.start.damaged
        content = read_checkpoint(path)
        try:
            self._check_classes(content["meta"], path)
            self._check_position(content["meta"], path)
            self._check_parts(content, path)
            check_finite(
                content["state_dict"], f"{path} can't be continued", "Move it, and --resume takes the one before."
            )
            own = self.bare_model.state_dict()
            state = {name: split_like(value, own[name]) for name, value in content["state_dict"].items()}
            self.bare_model.load_state_dict(state)
            self.optim_wrapper.load_state_dict(self._own_moments(content["optimizer"]))
            self.train_loop._iter = content["meta"]["step"]
            if self.average:
                self.average.load_state_dict(content["average"])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:  # a class list, a loss scaler
            # torch names the tensors that differ from the second line on.
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2]).rstrip(".") or type(error).__name__
            raise UserError(
                f"{path} does not continue this run: {reason}. Expected a checkpoint that the same "
                "recipe wrote; give another --work-dir, or start anew with --overwrite."
            ) from None
        set_aside(damaged)
        self.call_hook("after_load_checkpoint", checkpoint=content)
