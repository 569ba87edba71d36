"""Learning rate and lengths, against the formulas written plainly."""

import math

import pytest

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
