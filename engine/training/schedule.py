"""The length of a run and its learning rate, as a function of the step."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from convmae.engine.errors import UserError
from convmae.engine.options import ScheduleOptions


@dataclass(frozen=True)
class Schedule:
    """A schedule in optimiser steps, whatever unit the recipe used."""

    total: int
    warmup: int
    eval_every: int
    save_every: int
    milestones: tuple[int, ...]
    options: ScheduleOptions

    @classmethod
    def build(cls, options: ScheduleOptions, pictures: int, batch_size: int) -> Schedule:
        """Returns the schedule for ``pictures`` an epoch. Raises UserError if the length is not one of epochs and steps."""
        if (options.epochs is None) == (options.steps is None):
            raise UserError(
                f"schedule.epochs is {options.epochs} and schedule.steps is {options.steps}: set exactly one of them."
            )
        per_unit = 1.0 if options.epochs is None else pictures / batch_size
        length = options.steps if options.epochs is None else options.epochs
        assert length is not None

        def steps(amount: float) -> int:
            return round(min(amount * per_unit, sys.maxsize))

        total = steps(length)
        if total < 1:
            raise UserError(
                f"The schedule comes to {total} steps; expected at least one: raise schedule.epochs or .steps."
            )
        if not 0 <= options.warmup < length:
            raise UserError(
                f"schedule.warmup is {options.warmup:g}, expected from 0 to less than the length {length:g}."
            )
        if options.policy == "step" and not (
            options.milestones and all(0 < one < length for one in options.milestones)
        ):
            raise UserError(
                f"schedule.milestones is {options.milestones}; expected one or more between 0 and the length {length:g}, in "
                f"{'steps' if options.epochs is None else 'epochs'}."
            )
        return cls(
            total=total,
            warmup=steps(options.warmup),
            eval_every=max(1, steps(options.eval_every)) if options.eval_every > 0 else 0,
            save_every=max(1, steps(options.save_every) if options.save_every > 0 else math.ceil(total / 10)),
            milestones=tuple(steps(milestone) for milestone in options.milestones),
            options=options,
        )

    def lr_factor(self, step: int) -> float:
        """Returns the part of the learning rate to use in a 0-based step: linear warm-up, then the policy."""
        options = self.options
        if step < self.warmup:
            return options.warmup_factor + (1 - options.warmup_factor) * step / self.warmup
        done = (step - self.warmup) / max(1, self.total - self.warmup)
        if options.policy == "cosine":
            return options.min_lr + (1 - options.min_lr) * 0.5 * (1 + math.cos(math.pi * done))
        if options.policy == "poly":
            return options.min_lr + (1 - options.min_lr) * (1 - done) ** options.power
        if options.policy == "step":
            return options.gamma ** sum(step >= milestone for milestone in self.milestones)
        return 1.0
