"""Does pretraining pay? A study of arms, shares of the labels and seeds, which is run, goes on, and is told as it grows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from convmae.engine.errors import UserError
from convmae.engine.faults import SHOWN
from convmae.engine.log import duration, log
from convmae.engine.training.scalars import read_scalars
from convmae.studies.figures import Cell, Comparison, compare
from convmae.studies.labelled import Task
from convmae.studies.plan import TIMED, Plan, Seconds, Trial, best_rates
from convmae.studies.runs import Ended, Run, finish
from convmae.studies.settings import Settings


@dataclass
class Study:
    """A study and what is known of it so far: scores as shares of 1, the rates' scores, each arm's rate, what failed.

    ``lost``: the runs that count and failed; ``failures`` has the reasons of all, by their names.
    """

    settings: Settings
    plan: Plan
    task: Task
    timed: Seconds
    scores: dict[Cell, float] = field(default_factory=dict)
    searched: dict[Trial, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    lost: set[Cell] = field(default_factory=set)

    @property
    def measure(self) -> str:
        """The score, in words."""
        return self.task.measure(self.settings.config)[1]

    def score(self, run: Run) -> float:
        """Returns the score of a finished run. Raises UserError where it has none."""
        key = self.task.measure(self.settings.config)[0]
        found = run.metrics.get(key)
        if not isinstance(found, (int, float)) or not 0 <= found <= 1:
            raise UserError(f"{run.folder / 'metrics.json'} has no number {key} from 0 to 1, but {found!r}.")
        return float(found)

    def comparisons(self) -> list[Comparison]:
        """Returns what each arm gains over scratch, and what is pretrained here over weights that were given."""
        pretraining = {arm.name: self.plan.pretraining(arm).spent.clock for arm in self.plan.pretrained_arms}
        return [
            compare(self.scores, arm, other, self.plan.shares, pretraining.get(arm, 0.0), self.lost)
            for arm, other in self.plan.comparisons
        ]


def measure_seconds(plan: Plan, devices: Sequence[str]) -> Seconds:
    """Returns what a few steps of the tools themselves take, run as the study runs them. Raises UserError where they can't."""
    log.info(f"times {TIMED} steps, and an evaluation")
    runs = plan.timing()
    for run in runs:
        run.renew()
    with closing(finish(runs, plan.jobs, devices, shed=True)) as ended:
        for one in ended:
            if one.failure:
                raise UserError(one.failure)
    timed = [_timed(run) for run in runs]
    pretraining = timed.pop() if plan.pretrained_arms else (0.0, 0.0)
    step, rest = (statistics.fmean(values) for values in zip(*timed, strict=True))
    return Seconds(step, rest, *pretraining)


def _timed(run: Run) -> tuple[float, float]:
    """Returns the seconds of a step, once it is warm, and of all beside the steps."""
    steps = [row["seconds_per_step"] for row in read_scalars(run.folder) if "seconds_per_step" in row]
    step = statistics.median(steps[len(steps) // 2 :])
    return step, max(0.0, run.spent.clock - sum(steps))


def doubts(settings: Settings) -> list[str]:
    """Returns what may make a study say less than it seems to."""
    found = []
    if settings.pretraining.seen:
        found.append(
            f"{settings.pretraining.seen} of {len(settings.labelled.validation)} validation pictures are among those that are "
            "pretrained on"
        )
    if settings.lacking:
        (share, seed), names = next(iter(settings.lacking.items()))
        more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
        others = f"; so do {len(settings.lacking) - 1} other draws" * (len(settings.lacking) > 1)
        listed = ", ".join(f"{name!r}" for name in names[:SHOWN])
        found.append(f"{share:g} % of the labels by seed {seed} lack classes of the others: {listed}{more}{others}")
    return found


def describe(settings: Settings, plan: Plan, timed: Seconds) -> list[str]:
    """Returns the plan as lines."""
    shares = ", ".join(f"{share:g} % ({settings.pictures[share]} pictures)" for share in plan.shares)
    lines = [
        f"arms: {', '.join(arm.name for arm in plan.arms)}",
        f"labels: {shares}; seeds {', '.join(map(str, plan.seeds))}",
        f"training: {plan.recipe}, {plan.steps} steps a run, about {duration(plan.steps * timed.step + timed.rest)} "
        f"({timed.step:.3g} s a step, {duration(timed.rest)} for start, evaluation and report)",
    ]
    if plan.pretrained_arms:
        total = plan.pretraining_steps * timed.pretraining_step + timed.pretraining_rest
        lines.append(
            f"pretraining: {plan.pretrain_recipe}, {plan.pretraining_steps} steps on {settings.pretraining.pictures} pictures "
            f"of {settings.pretraining.root}, about {duration(total)}"
        )
    rates = ", ".join(f"{rate:g}" for rate in plan.rates)
    found = f"none to try rates ({rates})"
    if plan.trials:
        draws = f"{plan.draws} draw{'s' if plan.draws > 1 else ''}"
        found = f"{len(plan.trials)} to try rates ({rates}) at {plan.search_share:g} % by {draws}"
    lines.append(
        f"runs: {len(plan.pretrained_arms)} of pretraining, {found}, {len(plan.cells)} that count; {plan.jobs} at a time: "
        f"about {duration(plan.seconds(timed))} in all"
    )
    return lines


def run_study(study: Study, devices: Sequence[str], tell: Callable[[Study], Any]) -> None:
    """Does what is left of a study, and calls ``tell`` after each run. Raises UserError where an arm can't be trained at all.

    First pretraining and the rates, then seed by seed; where one rate is given there is nothing to look for, and runs that
    need no pretraining go beside it. A run that fails is told, and the others go on.
    """
    plan = study.plan
    pretraining = {plan.pretraining(arm): f"pretraining of {arm.name}" for arm in plan.pretrained_arms}
    search = {plan.search(trial): trial for trial in plan.trials}
    counted: dict[Run, Cell] = {}

    def take(one: Ended) -> str:
        if one.run in pretraining:
            return pretraining[one.run]
        if one.run in search:
            trial = search[one.run]
            if not one.failure:
                study.searched[trial] = study.score(one.run)
            return f"{trial.arm}, rate {trial.rate:g}, seed {trial.seed}"
        cell = counted[one.run]
        study.lost.add(cell)
        if not one.failure:
            study.scores[cell] = study.score(one.run)
            study.lost.remove(cell)
        return f"{cell.arm}, {cell.share:g} % of the labels, seed {cell.seed}"

    if search:
        _go(study, [*pretraining, *search], devices, take, tell, len(plan.cells))
    study.rates = best_rates(plan, study.searched)
    for arm in plan.arms:
        if arm.name not in study.rates or (search and arm.is_pretrained_here and not plan.pretraining(arm).is_finished):
            raise _untrained(study, arm.name)
    counted |= {plan.training(cell, study.rates[cell.arm]): cell for cell in plan.cells}
    _go(study, [*counted] if search else [*pretraining, *counted], devices, take, tell)
    if study.failures:
        told = "; ".join(f"{name}: {reason}" for name, reason in study.failures.items())
        log.warning(f"{len(study.failures)} runs failed. {told}")
    for arm in plan.arms:
        if not any(cell.arm == arm.name for cell in study.scores):
            raise _untrained(study, arm.name)


def _untrained(study: Study, arm: str) -> UserError:
    """Returns what is to be said of an arm without a score: the reason of its pretraining, else those of its runs."""
    of_arm = {name: reason for name, reason in study.failures.items() if name.startswith(f"{arm}, ")}
    made = study.failures.get(f"pretraining of {arm}")
    reasons = "; ".join([made] if made else dict.fromkeys(of_arm.values()))
    return UserError(f"The arm {arm} can't be trained: {reasons}")


def _go(
    study: Study,
    runs: Sequence[Run],
    devices: Sequence[str],
    take: Callable[[Ended], str],
    tell: Callable[[Study], Any],
    later: int = 0,
) -> None:
    """Does runs, takes each one's score by ``take``, which returns its name, and tells of it; ``later``: runs that follow."""
    one_run = study.plan.steps * study.timed.step + study.timed.rest
    ready = sum(run.is_finished for run in runs)
    with closing(finish(runs, study.plan.jobs, devices, shed=True)) as ended:
        for number, one in enumerate(ended, 1):
            try:
                name, failure = take(one), one.failure
            except UserError as error:  # a score that is none
                one.run.reopen()
                name, failure = take(Ended(one.run, str(error))), str(error)
            if failure:
                study.failures[name] = failure
                log.warning(f"{name}: {failure}")
            elif number > ready:
                left = duration(one_run * (len(runs) - number + later) / study.plan.jobs)
                score = "" if one.run.words[0] == "pretrain" else f", {100 * study.score(one.run):.1f} {study.measure}"
                took = duration(one.run.spent.clock)
                log.info(f"{number} of {len(runs)}: {name}, {took}{score}; to go about {left}")
            if number >= ready:  # what was finished before is told at once
                tell(study)
