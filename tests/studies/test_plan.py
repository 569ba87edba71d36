"""What is run in which order, how long that takes, and what a budget leaves of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from convmae.engine.errors import UserError
from convmae.studies import worth
from convmae.studies.plan import TIMED, Arm, Plan, Seconds, Trial, best_rates
from convmae.studies.runs import Run

ONE = Seconds(step=1.0, rest=50.0, pretraining_step=2.0, pretraining_rest=100.0)  # runs of 150 s, pretraining of 900


@pytest.fixture
def plan() -> Plan:
    return Plan(
        work_dir=Path("study"),
        tool="train_det",
        recipe="det.yaml",
        options=("data.root=data", "schedule.steps=100", "schedule.warmup=10"),
        scratch_options=("optim.layer_decay=1.0",),
        pretrain_recipe="pre.yaml",
        pretrain_options=("data.root=pictures",),
        arms=(
            Arm("scratch"),
            Arm("pretrained", "study/pretrained/pretraining/encoder.pth", ""),
            Arm("published_pretrained", "study/published_pretrained/pretraining/encoder.pth", "published.pth"),
            Arm("published", "published.pth"),
        ),
        shares=(10, 25, 50, 100),
        seeds=(0, 1, 2),
        rates=(0.001, 0.003),
        search_share=25,
        steps=100,
        pretraining_steps=400,
    )


def test_runs_that_count_go_seed_by_seed_and_differ_in_what_they_are_to(plan: Plan) -> None:
    assert len(plan.cells) == len(set(plan.cells)) == 4 * 4 * 3
    assert [cell.seed for cell in plan.cells] == sorted(cell.seed for cell in plan.cells)
    runs = [plan.training(cell, 0.003) for cell in plan.cells]
    assert len({run.folder for run in runs}) == len(runs)
    first, pretrained = runs[0].words, runs[1].words
    assert "optim.layer_decay=1.0" in first
    assert not any(word.startswith("model.init") for word in first)
    assert "model.init=study/pretrained/pretraining/encoder.pth" in pretrained
    assert "optim.layer_decay=1.0" not in pretrained
    for words in (first, pretrained):
        assert {"optim.lr=0.003", "data.share=0.1", "data.share_seed=0", "runtime.seed=0", "schedule.steps=100"} <= set(
            words
        )
    assert runs[0].needs is None
    assert runs[1].needs == Path("study/pretrained/pretraining/encoder.pth")
    assert runs[3].needs is None  # weights that were given are there


def test_rates_are_tried_alike_by_seeds_that_none_that_counts_has(plan: Plan) -> None:
    plan = dataclasses.replace(plan, draws=2)
    assert not set(plan.search_seeds) & set(plan.seeds)
    assert len(plan.search_seeds) == 2
    expected = [(arm.name, rate, seed) for seed in plan.search_seeds for rate in plan.rates for arm in plan.arms]
    assert plan.trials == expected
    assert len({plan.search(trial).folder for trial in plan.trials}) == len(expected)
    for trial in plan.trials:
        assert {
            f"optim.lr={trial.rate:g}",
            "data.share=0.25",
            f"data.share_seed={trial.seed}",
            f"runtime.seed={trial.seed}",
        } <= set(plan.search(trial).words)
    assert dataclasses.replace(plan, rates=(0.001,)).trials == []


def test_pretraining_starts_from_nothing_or_from_what_it_is_to_go_on_from(plan: Plan) -> None:
    own, further = (plan.pretraining(arm).words for arm in plan.pretrained_arms)
    assert not any(word.startswith("model.init") for word in own)
    assert "model.init=published.pth" in further


def test_what_is_timed_is_short_and_as_much_at_a_time_as_the_study(plan: Plan) -> None:
    runs = dataclasses.replace(plan, jobs=3).timing()
    assert [run.words[0] for run in runs] == ["train_det"] * 3 + ["pretrain"]
    assert len({run.folder for run in runs}) == 4
    for run in runs:
        last = {word.partition("=")[0]: word.partition("=")[2] for word in run.words if "=" in word}
        assert last["schedule.steps"] == str(TIMED)
        assert last["schedule.warmup"] == "0"


def test_which_arms_are_compared(plan: Plan) -> None:
    assert plan.comparisons == [
        ("pretrained", "scratch"),
        ("published_pretrained", "scratch"),
        ("published", "scratch"),
        ("pretrained", "published"),
        ("published_pretrained", "published"),
    ]


def test_how_long_it_takes(plan: Plan) -> None:
    assert plan.seconds(ONE) == 2 * 900 + (8 + 48) * 150
    assert dataclasses.replace(plan, draws=3).seconds(ONE) == 2 * 900 + (3 * 8 + 48) * 150
    assert dataclasses.replace(plan, rates=(0.001,)).seconds(ONE) == 2 * 900 + 48 * 150
    # However many at a time, pretraining is followed by the rates of its arms, and these by what counts.
    assert dataclasses.replace(plan, jobs=1000).seconds(ONE) == 900 + 150 + 150
    seconds = [dataclasses.replace(plan, jobs=jobs).seconds(ONE) for jobs in range(1, 9)]
    assert seconds == sorted(seconds, reverse=True)


def test_a_budget_takes_seeds_then_draws_then_shares_then_the_second_seed_then_arms(plan: Plan) -> None:
    plan = dataclasses.replace(plan, draws=3)
    least = dataclasses.replace(plan, seeds=(0,), draws=1, shares=(25,), arms=plan.arms[:2]).seconds(ONE)
    left, budget = [], plan.seconds(ONE)
    while budget >= least:
        fitted = plan.fit(ONE, budget)
        assert fitted.seconds(ONE) <= budget
        left.append((len(fitted.arms), fitted.shares, fitted.draws, fitted.seeds))
        budget = fitted.seconds(ONE) - 1
    assert left == [
        (4, (10, 25, 50, 100), 3, (0, 1, 2)),
        (4, (10, 25, 50, 100), 3, (0, 1)),
        (4, (10, 25, 50, 100), 1, (0, 1)),
        (4, (10, 25, 100), 1, (0, 1)),
        (4, (25, 100), 1, (0, 1)),
        (4, (25,), 1, (0, 1)),
        (4, (25,), 1, (0,)),
        (3, (25,), 1, (0,)),
        (2, (25,), 1, (0,)),
    ]
    with pytest.raises(UserError, match="the least, one seed of scratch and pretrained at 25 % of the labels"):
        plan.fit(ONE, least - 1)


def test_each_arm_has_its_best_rate(plan: Plan) -> None:
    found = {
        Trial("scratch", 0.001, 1000): 0.3,
        Trial("scratch", 0.003, 1000): 0.4,
        Trial("pretrained", 0.001, 1000): 0.5,
        Trial("pretrained", 0.003, 1000): 0.5,
    }
    assert best_rates(plan, found) == {
        "scratch": 0.003,
        "pretrained": 0.001,
    }  # of two alike the smaller; others have none
    # The mean of the draws counts, so that a rate is not chosen for one lucky run, nor one by which a run failed.
    found |= {
        Trial("scratch", 0.001, 1001): 0.35,
        Trial("scratch", 0.003, 1001): 0.1,
        Trial("pretrained", 0.003, 1001): 0.1,
    }
    assert best_rates(plan, found) == {"scratch": 0.001, "pretrained": 0.003}
    one = dataclasses.replace(plan, rates=(0.003,))
    assert best_rates(one, {}) == {arm.name: 0.003 for arm in plan.arms}


def test_where_one_rate_is_given_runs_go_beside_pretraining(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(plan, rates=(0.001,))
    made: list[list[str]] = []

    def go(study: worth.Study, runs: Sequence[Run], *_: object) -> None:
        made.append([run.folder.name for run in runs])
        study.scores |= dict.fromkeys(plan.cells, 0.5)

    monkeypatch.setattr(worth, "_go", go)
    worth.run_study(worth.Study(None, plan, None, ONE), (), lambda _: None)  # type: ignore[arg-type]
    (names,) = made  # at once, the longest first
    assert names[:2] == ["pretraining", "pretraining"]
    assert len(names) == 2 + len(plan.cells)
    # With enough of them at a time all is done with what needs weights.
    assert dataclasses.replace(plan, jobs=1000).seconds(ONE) == 900 + 150
    assert dataclasses.replace(plan, jobs=2).seconds(ONE) == 900 + 24 * 150
