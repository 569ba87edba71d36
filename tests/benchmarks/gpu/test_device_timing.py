"""Times, peaks and profiles on one device: turns, regions, events, and what a batch must fit."""

from __future__ import annotations

import time

import pytest
import torch

from convmae.benchmarks.gpu import attention, device_timing, profiling
from convmae.benchmarks.gpu.attention_forms import (
    shared_forms,
)
from convmae.benchmarks.gpu.battery import Row
from convmae.benchmarks.gpu.device_timing import operations, pairs, take_turns, with_peak
from convmae.benchmarks.gpu.steps import fitting

CPU = torch.device("cpu")


def test_steps_take_turns_after_warming_up() -> None:
    calls: list[str] = []
    found = take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, CPU, repeats=2)
    assert "".join(calls) == "aa" + "bb" + "aa" + "bb" + "aa" + "bb"  # the second is to see how long it takes
    assert all(taken.steps == 1 for taken in found.values())


def test_long_steps_are_timed_in_fewer_regions_than_asked_for() -> None:
    calls: list[str] = []

    def step() -> None:
        calls.append("step")
        time.sleep(0.02)

    take_turns({"long": step}, CPU, repeats=50, allotted=0.2)
    assert len(calls) < 15


def test_short_steps_are_repeated_within_a_region() -> None:
    found = take_turns({"sleep": lambda: time.sleep(1e-3)}, CPU, repeats=3, allotted=1.0)["sleep"]
    assert found.steps >= 20
    assert found.seconds >= 0.9e-3  # of a step, and not of the region; a busy machine takes longer


def test_on_a_gpu_a_region_is_timed_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            seen.append("event")

        def synchronize(self) -> None:
            seen.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 6.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert device_timing._region(lambda: seen.append("step"), 3, torch.device("cuda")) == pytest.approx(2e-3)
    assert seen == ["event", "step", "step", "step", "event", "wait"]


def test_a_device_is_busy_where_any_kernel_runs() -> None:
    assert profiling._covered([(0, 4), (2, 3), (3, 6), (8, 9), (6, 7)]) == 8
    assert profiling._covered([]) == 0


def test_a_profile_counts_and_orders_what_a_step_runs() -> None:
    x = torch.randn(300, 300)
    summary, *longest = profiling.profiled("it", lambda: (x @ x).relu().relu(), CPU, seconds=1.0)
    assert summary["kernels"] >= 3
    assert 0 < summary["busy share"] < 0.5
    assert "aten::mm" in {row["kernel"] for row in longest}
    assert [row["calls"] for row in longest if row["kernel"] == "aten::clamp_min"] == [2]
    assert [row["ms"] for row in longest] == sorted((row["ms"] for row in longest), reverse=True)


def test_a_batch_is_halved_until_it_fits() -> None:
    tried: list[int] = []

    def rows(batch: int) -> list[Row]:
        tried.append(batch)
        if batch > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [{"batch": batch}]

    assert fitting(256, rows, CPU) == [{"batch": 64}]
    assert tried == [256, 128, 64]
    with pytest.raises(torch.OutOfMemoryError):
        fitting(1, lambda batch: rows(100), CPU)


def test_a_peak_is_what_two_runs_need_beside_what_was_held(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [100]  # GiB now, and at most since the peak began
    peak = [500]
    monkeypatch.setattr(device_timing, "begin_peak", lambda device: peak.__setitem__(0, held[0]))
    monkeypatch.setattr(device_timing, "peak_bytes", lambda device: peak[0] * 2**30)

    def hold(more: int) -> None:
        held[0] += more
        peak[0] = max(peak[0], held[0])

    def step() -> None:
        hold(20)
        hold(-15)  # each run keeps 5

    step_found, found = with_peak(lambda: hold(10) or step, CPU)
    assert step_found is step
    assert found == 35
    assert held == [120]


def test_operations_count_attention_by_its_pairs() -> None:
    grid, window = (5, 7), (2, 3)
    tokens = torch.cartesian_prod(torch.arange(5), torch.arange(7)).div(torch.tensor(window), rounding_mode="floor")
    assert pairs(grid, window) == (tokens[:, None] == tokens[None]).all(-1).sum()
    kind = attention.Kind("some", 2, (4, 6))
    leaves = [x.detach().requires_grad_() for x in kind.inputs(CPU)]
    form = shared_forms(tiny=True)["shipped"]
    assert operations(lambda: form(*leaves, (4, 6))) == kind.work
    whole = operations(lambda: form(*leaves, (4, 6)).sum().backward())
    assert whole == (1 + attention.BACKWARD) * kind.work
