"""Learning rate and lengths, against the formulas written plainly."""

import math
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import pytest
import yaml

from convmae.engine.config import branch, load_config
from convmae.engine.errors import UserError
from convmae.engine.options import ScheduleOptions
from convmae.engine.training.schedule import Schedule


def test_epochs_and_steps_are_converted_by_the_batch() -> None:
    # The paper's detection schedule: 25 epochs of 118,000 pictures, 32 a step.
    options = ScheduleOptions(epochs=25, warmup=0.125, eval_every=5)
    schedule = Schedule.build(options, pictures=118_000, batch_size=32)
    assert (schedule.total, schedule.warmup, schedule.eval_every) == (92_188, 461, 18_438)


def test_cosine_after_warmup() -> None:
    schedule = Schedule.build(ScheduleOptions(steps=110, warmup=10, warmup_factor=0.1, min_lr=0.2), 1, 1)
    assert schedule.lr_factor(0) == pytest.approx(0.1)
    assert schedule.lr_factor(5) == pytest.approx(0.55)
    assert schedule.lr_factor(10) == pytest.approx(1.0)
    assert schedule.lr_factor(35) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule.lr_factor(110) == pytest.approx(0.2)


def test_poly_step_and_constant() -> None:
    poly = Schedule.build(ScheduleOptions(steps=100, policy="poly", power=2.0), 1, 1)
    assert poly.lr_factor(50) == pytest.approx(0.25)
    step = Schedule.build(ScheduleOptions(epochs=10, policy="step", milestones=[8, 9]), 20, 2)
    assert [step.lr_factor(s) for s in (79, 80, 90)] == pytest.approx([1, 0.1, 0.01])
    assert Schedule.build(ScheduleOptions(steps=9, policy="constant"), 1, 1).lr_factor(8) == 1


def test_the_vitdet_ports_steps() -> None:
    options = ScheduleOptions(steps=184_375, policy="step", milestones=[163_889, 177_546], warmup=250)
    schedule = Schedule.build(options, pictures=117_266, batch_size=16)
    factors = {0: 0.001, 125: 0.5005, 250: 1, 163_888: 1, 163_889: 0.1, 177_545: 0.1, 177_546: 0.01, 184_374: 0.01}
    assert {step: schedule.lr_factor(step) for step in factors} == pytest.approx(factors)


@pytest.mark.parametrize(
    "options",
    [
        ScheduleOptions(),
        ScheduleOptions(steps=5, epochs=1),
        ScheduleOptions(steps=0),
        ScheduleOptions(steps=5, warmup=5),
        ScheduleOptions(steps=5, policy="step"),
        ScheduleOptions(epochs=5, policy="step", milestones=[3, 163_889]),
    ],
)
def test_an_impossible_length_is_refused(options: ScheduleOptions) -> None:
    with pytest.raises(UserError, match=r"schedule|at least one"):
        Schedule.build(options, 10, 2)


@dataclass
class Tree:
    schedule: ScheduleOptions = branch(ScheduleOptions)


def settled(recipe: str, *given: str, path: Path) -> ScheduleOptions:
    (path / "recipe.yaml").write_text(f"schedule: {recipe}\n")
    return load_config(Tree, path / "recipe.yaml", given).schedule


EPOCHS = "{epochs: 24, warmup: 0.5, eval_every: 4, milestones: [16, 22]}"
STEPS = "{steps: 1500, warmup: 50, eval_every: 250}"


def test_steps_replace_the_recipes_epochs_and_other_lengths_keep_their_part_of_the_run(tmp_path: Path) -> None:
    found = settled(EPOCHS, "schedule.steps=240", path=tmp_path)
    assert (found.epochs, found.steps, found.warmup, found.eval_every) == (None, 240, 5, 40)
    assert (found.milestones, found.save_every) == ([160, 220], 0)
    assert found.notes[0] == "schedule.warmup is 5 steps of 240, for 0.5 epochs of the recipe's 24"
    back = settled(STEPS, "schedule.epochs=3", path=tmp_path)
    assert (back.epochs, back.steps, back.warmup, back.eval_every) == (3, None, 0.1, 0.5)


@pytest.mark.parametrize("null", [[], ["schedule.epochs=null"]])
def test_what_is_given_beside_the_length_is_meant_in_its_unit(null: list[str], tmp_path: Path) -> None:
    given = ["schedule.warmup=30", "schedule.steps=240", "schedule.eval_every=80", "schedule.milestones=[200]"]
    found = settled(EPOCHS, *null, *given, path=tmp_path)
    assert (found.steps, found.warmup, found.eval_every, found.milestones, found.notes) == (240, 30, 80, [200], ())


@pytest.mark.parametrize(("steps", "warmup"), [(3000, 50), (1500, 50), (600, 50), (300, 30), (30, 3)])
def test_a_shorter_run_warms_up_for_a_tenth_at_most(steps: int, warmup: float, tmp_path: Path) -> None:
    found = settled(STEPS, f"schedule.steps={steps}", path=tmp_path)
    assert (found.warmup, found.eval_every) == (warmup, 250)
    assert bool(found.notes) == (warmup != 50)
    Schedule.build(found, 10, 1)


def test_a_recipe_that_warms_up_for_longer_does_so_in_a_shorter_run(tmp_path: Path) -> None:
    assert settled("{epochs: 10, warmup: 2}", "schedule.epochs=5", path=tmp_path).warmup == 1


def test_two_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set exactly one"):
        Schedule.build(settled(EPOCHS, "schedule.epochs=2", "schedule.steps=5", path=tmp_path), 10, 1)


def test_without_another_length_nothing_changes(tmp_path: Path) -> None:
    found = settled(EPOCHS, "schedule.power=2", "schedule.eval_every=1", path=tmp_path)
    assert (found.epochs, found.warmup, found.eval_every, found.notes) == (24, 0.5, 1, ())


def over(base: str, recipe: str, *given: str, path: Path) -> ScheduleOptions:
    (path / "base.yaml").write_text(f"schedule: {base}\n")
    (path / "over.yaml").write_text(f"_base_: base.yaml\nschedule: {recipe}\n")
    return load_config(Tree, path / "over.yaml", given).schedule


@pytest.mark.parametrize(
    "length",
    [
        "{steps: 240}",
        "{steps: 240, warmup: 30, eval_every: 80}",
        "{steps: 100}",
        "{epochs: 3}",
        "{epochs: 2, warmup: 1}",
    ],
)
@pytest.mark.parametrize("base", [EPOCHS, STEPS])
def test_a_recipe_replaces_its_bases_length_as_a_command_line_does(base: str, length: str, tmp_path: Path) -> None:
    words = [f"schedule.{name}={value}" for name, value in yaml.safe_load(length).items()]
    found, told = over(base, length, path=tmp_path), settled(base, *words, path=tmp_path)
    assert (found, found.notes) == (told, told.notes)
    assert (found.epochs is None) != (found.steps is None)
    Schedule.build(found, 100, 1)


def test_each_level_replaces_the_length_of_those_below(tmp_path: Path) -> None:
    found = over(EPOCHS, "{steps: 240}", "schedule.epochs=12", path=tmp_path)
    assert (found.epochs, found.steps, found.warmup, found.eval_every) == (12, None, 0.25, 2)
    assert len(found.notes) == 6  # three lengths, twice
    defaults = make_dataclass(
        "Defaults", [("schedule", ScheduleOptions, branch(ScheduleOptions, epochs=25.0, warmup=5.0))]
    )
    (tmp_path / "alone.yaml").write_text("schedule: {steps: 100}\n")
    alone = load_config(defaults, tmp_path / "alone.yaml").schedule
    assert (alone.epochs, alone.steps, alone.warmup) == (None, 100, 20)


def test_two_lengths_of_one_recipe_are_refused(tmp_path: Path) -> None:
    for base in (EPOCHS, STEPS):
        with pytest.raises(UserError, match="set exactly one"):
            Schedule.build(over(base, "{epochs: 2, steps: 5}", path=tmp_path), 10, 1)


@pytest.mark.parametrize("length", ["steps=0", "steps=1" + "0" * 400])
def test_a_length_that_is_none_is_refused(length: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"schedule\.steps is \d+; expected from 1 to 1e\+12"):
        settled(EPOCHS, f"schedule.{length}", path=tmp_path)
    with pytest.raises(UserError, match=r"schedule\.steps is \d+; expected"):
        over(EPOCHS, f"{{{length.replace('=', ': ')}}}", path=tmp_path)


def test_lengths_without_end_are_steps_all_the_same() -> None:
    schedule = Schedule.build(ScheduleOptions(epochs=1e308, eval_every=1e308), pictures=10**6, batch_size=1)
    assert schedule.total > 10**18
    assert schedule.eval_every > 10**18
