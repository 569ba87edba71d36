"""What a study of pretraining runs: arms, shares of the labels, seeds and rates, in which order, and how long it takes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from convmae.engine.errors import UserError
from convmae.engine.log import duration
from convmae.studies.figures import Cell
from convmae.studies.runs import Run

SCRATCH, PRETRAINED = "scratch", "pretrained"
TIMED = 10  # steps of the runs that are timed
SEARCH_SEED = 1000  # first of those of runs that try rates; none that counts has it: no rate is judged by its own draws


@dataclass(frozen=True)
class Arm:
    """One side: the weights that its runs start from ("" for none), and, where these are made here, what they start from."""

    name: str
    init: str = ""
    pretrained_from: str | None = None

    @property
    def is_pretrained_here(self) -> bool:
        """Whether its weights are made in the study."""
        return self.pretrained_from is not None


class Trial(NamedTuple):
    """A run of an arm by which a rate is tried, on labels that ``seed`` draws."""

    arm: str
    rate: float
    seed: int


class Seconds(NamedTuple):
    """What was timed: a step of training, all of a run beside its steps, its evaluation above all; likewise of pretraining."""

    step: float
    rest: float
    pretraining_step: float = 0.0
    pretraining_rest: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A study. ``shares`` are in percent; ``steps`` and ``pretraining_steps`` the lengths of a run and of a pretraining.

    ``draws``: runs that try a rate. ``tool``, ``recipe``, ``options``: what trains; ``scratch_options`` what an arm without
    weights has besides. ``pretrain``: recipe and options of pretraining.
    """

    work_dir: Path
    tool: str
    recipe: str
    options: tuple[str, ...]
    scratch_options: tuple[str, ...]
    pretrain_recipe: str
    pretrain_options: tuple[str, ...]
    arms: tuple[Arm, ...]
    shares: tuple[float, ...]
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    search_share: float
    steps: int
    pretraining_steps: int
    draws: int = 1
    jobs: int = 1

    @property
    def pretrained_arms(self) -> list[Arm]:
        """The arms whose weights are made here."""
        return [arm for arm in self.arms if arm.is_pretrained_here]

    @property
    def comparisons(self) -> list[tuple[str, str]]:
        """Which arms are compared: each with scratch, those that are pretrained here first, and these with weights given."""
        ordered = sorted(self.arms, key=lambda arm: not arm.is_pretrained_here)
        given = [arm.name for arm in self.arms if arm.init and not arm.is_pretrained_here]
        against_scratch = [(arm.name, SCRATCH) for arm in ordered if arm.name != SCRATCH]
        return against_scratch + [(arm.name, name) for arm in self.pretrained_arms for name in given]

    @property
    def trials(self) -> list[Trial]:
        """What is trained to find each arm's rate, draw by draw; nothing where one rate is given."""
        if len(self.rates) == 1:
            return []
        triples = itertools.product(self.search_seeds, self.rates, self.arms)
        return [Trial(arm.name, rate, seed) for seed, rate, arm in triples]

    @property
    def search_seeds(self) -> range:
        """The seeds of the draws by which rates are tried."""
        return range(SEARCH_SEED, SEARCH_SEED + self.draws)

    @property
    def cells(self) -> list[Cell]:
        """What is trained, seed by seed, so that a study which is ended early has whole seeds."""
        triples = itertools.product(self.seeds, self.shares, self.arms)
        return [Cell(arm.name, share, seed) for seed, share, arm in triples]

    def pretraining(self, arm: Arm) -> Run:
        """Returns the pretraining of an arm."""
        folder = self.work_dir / arm.name / "pretraining"
        init = [f"model.init={arm.pretrained_from}"] if arm.pretrained_from else []
        words = self._words("pretrain", self.pretrain_recipe, folder, [*self.pretrain_options, *init])
        return Run(folder, words, kept=("encoder.pth", "index.html"))

    def search(self, trial: Trial) -> Run:
        """Returns the run that tries a rate."""
        cell = Cell(trial.arm, self.search_share, trial.seed)
        return self._training(
            self._arm(trial.arm),
            f"search_share_{self.search_share:g}_seed_{trial.seed}_lr_{trial.rate:g}",
            cell,
            trial.rate,
        )

    def training(self, cell: Cell, rate: float) -> Run:
        """Returns a run that counts, by the rate that was found for its arm."""
        name = f"share_{cell.share:g}_seed_{cell.seed}_lr_{rate:g}"
        return self._training(self._arm(cell.arm), name, cell, rate)

    def timing(self) -> list[Run]:
        """Returns short runs: as many of training as there are at a time, and one of pretraining if there is any."""
        arm, cell = Arm(SCRATCH), Cell(SCRATCH, 100.0, 0)
        # Milestones would lie beyond the end.
        short = [f"schedule.steps={TIMED}", "schedule.warmup=0", "schedule.policy=constant", "runtime.log_every=1"]
        names = [f"timing_{number}" for number in range(min(self.jobs, len(self.cells)))]
        runs = [self._training(arm, name, cell, min(self.rates), short) for name in names]
        if self.pretrained_arms:
            folder = self.work_dir / PRETRAINED / "timing"
            options = [*self.pretrain_options, "schedule.epochs=null", *short]
            runs.append(Run(folder, self._words("pretrain", self.pretrain_recipe, folder, options)))
        return runs

    def seconds(self, one: Seconds) -> float:
        """Returns how long the study takes by the clock, so many runs at a time."""
        run = self.steps * one.step + one.rest
        pretraining = self.pretraining_steps * one.pretraining_step + one.pretraining_rest
        here, search = len(self.pretrained_arms), len(self.trials)
        # Pretraining is a chain that no number of processes shortens: what needs its weights comes after it.
        chain = here and pretraining * math.ceil(here / self.jobs)
        counted = len(self.cells)
        if not search:
            own = counted // len(self.arms) * here
            return max(
                (here * pretraining + counted * run) / self.jobs,
                run * math.ceil(counted / self.jobs),
                chain + run * math.ceil(own / self.jobs),
            )
        tried = here and chain + run * math.ceil(search // len(self.arms) * here / self.jobs)
        first = max((here * pretraining + search * run) / self.jobs, run * math.ceil(search / self.jobs), tried)
        return first + run * math.ceil(counted / self.jobs)

    def fit(self, one: Seconds, budget: float) -> Plan:
        """Returns the plan with as many seeds and shares as ``budget`` seconds allow.

        Seeds go first, down to the two that an interval needs, then draws of the search but one, then shares, then the second
        seed, then arms. Raises UserError where the least, one seed of two arms at one share, takes longer.
        """
        plan = self
        for smaller in (None, *self._smaller()):
            plan = smaller or plan
            if plan.seconds(one) <= budget:
                return plan
        raise UserError(
            f"--budget is {duration(budget)}, and the least, one seed of {plan.arms[0].name} and {plan.arms[-1].name} at "
            f"{plan.shares[0]:g} % of the labels with {len(plan.rates)} rates each, would take {duration(plan.seconds(one))}. "
            "Give more hours, shorten the runs (--cfg-options schedule.steps=..., --pretrain-options schedule.epochs=...), or "
            "try fewer --rates."
        )

    def _smaller(self) -> list[Plan]:
        """Returns ever smaller plans: the share of the search and that of all labels stay longest."""
        plans, plan = [], self
        while len(plan.seeds) > 2:
            plan = dataclasses.replace(plan, seeds=plan.seeds[:-1])
            plans.append(plan)
        if plan.trials and plan.draws > 1:
            plan = dataclasses.replace(plan, draws=1)
            plans.append(plan)
        by_use = sorted(plan.shares, key=lambda share: (share == plan.search_share, share == max(plan.shares), -share))
        for dropped in by_use[:-1]:
            plan = dataclasses.replace(plan, shares=tuple(share for share in plan.shares if share != dropped))
            plans.append(plan)
        if len(plan.seeds) > 1:
            plan = dataclasses.replace(plan, seeds=plan.seeds[:1])
            plans.append(plan)
        while len(plan.arms) > 2:
            plan = dataclasses.replace(plan, arms=plan.arms[:-1])
            plans.append(plan)
        return plans

    def _arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def _training(self, arm: Arm, name: str, cell: Cell, rate: float, more: Sequence[str] = ()) -> Run:
        folder = self.work_dir / arm.name / name
        own = [f"model.init={arm.init}"] if arm.init else list(self.scratch_options)
        own += [f"optim.lr={rate:g}", f"data.share={cell.share / 100:g}", f"data.share_seed={cell.seed}"]
        options = [*self.options, *own, f"runtime.seed={cell.seed}", *more]
        needs = Path(arm.init) if arm.is_pretrained_here else None
        return Run(folder, self._words(self.tool, self.recipe, folder, options), needs=needs)

    def _words(self, tool: str, recipe: str, folder: Path, options: Sequence[str]) -> tuple[str, ...]:
        return (tool, "--config", recipe, "--work-dir", str(folder), "--cfg-options", *options)


def mean_scores(found: Mapping[Trial, float]) -> dict[tuple[str, float], tuple[int, float]]:
    """Returns how many draws of each arm and rate have a score, and their mean."""
    by_rate: dict[tuple[str, float], list[float]] = {}
    for trial, score in found.items():
        by_rate.setdefault((trial.arm, trial.rate), []).append(score)
    return {key: (len(scores), statistics.fmean(scores)) for key, scores in by_rate.items()}


def best_rates(plan: Plan, found: Mapping[Trial, float]) -> dict[str, float]:
    """Returns each arm's rate of the best mean score, of those that have one; the first rate where but one is given.

    A rate by which runs failed comes after those by which fewer did. ``found``: the scores of the search.
    """
    if len(plan.rates) == 1:
        return {arm.name: plan.rates[0] for arm in plan.arms}
    means, best = mean_scores(found), {}
    for arm in plan.arms:
        known = [(*means[arm.name, rate], -rate) for rate in plan.rates if (arm.name, rate) in means]
        if known:
            best[arm.name] = -max(known)[-1]
    return best
