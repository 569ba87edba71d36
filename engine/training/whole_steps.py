"""The state after the last whole step: what a step that fails has changed is taken back, and a checkpoint is left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.engine.machine.failures import explain, is_lost_process
from convmae.engine.run_files import start_list
from convmae.engine.training.batch_norm import running_statistics
from convmae.engine.training.checkpoints import latest_checkpoint

if TYPE_CHECKING:
    from convmae.engine.training.runner import Runner


class WholeStepHook(Hook):
    """Knows of which step the model, its optimiser and its average are, and keeps what a forward pass changes: batch norms.

    It looks at a step after what changes the model beside the optimiser, and before what writes of it, which may fail.
    """

    priority = "LOW"

    def __init__(self) -> None:
        self.step: int | None = None  # None from the moment the optimiser moves weights until all is moved
        self.begun = False
        self.norms: list[list[Tensor]] = []  # by dtype: running means and variances, counts
        self.before: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        self.step = runner.iter
        statistics = running_statistics(runner.bare_model)
        counts = [value for name, value in runner.bare_model.named_buffers() if name.endswith("num_batches_tracked")]
        self.norms = [[value.view(-1) for value in values] for values in (statistics, counts) if values]
        runner.optim_wrapper.optimizer.register_step_pre_hook(self._move)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.before = [torch.cat(values) for values in self.norms]
        self.begun = True

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.step, self.begun = batch_idx + 1, False

    def put_back(self, skipped: Tensor | None = None) -> None:
        """Gives batch norms what they kept before the step, where ``skipped`` [] is true: without a wait for it."""
        for values, before in zip(self.norms, self.before, strict=True):
            kept = before if skipped is None else torch.where(skipped, before, torch.cat(values))
            torch._foreach_copy_(values, kept.split([len(value) for value in values]))

    def take_back(self) -> None:
        """Undoes a step that failed, unless weights are half moved."""
        if self.begun and self.step is not None:
            self.put_back()
            self.begun = False

    def _move(self, *_: Any) -> None:
        self.step = None


def keep_whole_step(runner: Runner, error: Exception, kept: int) -> None:
    """Writes a checkpoint after a failure, unless that of the step is ``kept``, and tells which one continues.

    Other processes can't be asked any more: the first writes what it has, which is what all have but for the statistics of
    plain batch norms, which are of its own pictures alone. Where it waits for one that is gone, a GPU does too, and no weights
    can be read from it.
    """
    step, folder = runner.whole.step, Path(runner.work_dir)
    stuck = runner.device.type == "cuda" and get_world_size() > 1 and is_lost_process(error)
    runner.call_hook("after_failure", stuck=stuck)
    if step and step != kept and is_main_process() and not stuck:
        try:
            runner.whole.take_back()
            if not folder.is_dir():
                folder.mkdir(parents=True)
                start_list(folder)
            runner.write_checkpoint(step, alone=True)
        except (UserError, OSError, RuntimeError) as again:
            log.warning(f"no checkpoint of step {step} could be written: {explain(again) or again}")
    last = latest_checkpoint(folder)
    if last:
        log.warning(f"{last} continues with --resume")
