"""The battery for GPUs: tiny on a CPU it runs, keeps to its time, loses nothing, and judges and draws what it found."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from convmae.benchmarks import bench_gpu
from convmae.benchmarks.gpu import attention, device_timing, profiling
from convmae.benchmarks.gpu.agreement import deviation, right
from convmae.benchmarks.gpu.agreement.deviation import Deviation, errors
from convmae.benchmarks.gpu.aims import AIMS, judge
from convmae.benchmarks.gpu.attention_forms import (
    decomposed_forms,
    flex_forms,
    in_plain_windows,
    plain,
    plain_decomposed,
    shared_forms,
    windowed_forms,
)
from convmae.benchmarks.gpu.battery import Battery, Case, DeviceLost, Item, Overrun, Row, Setting
from convmae.benchmarks.gpu.device_timing import operations, pairs, take_turns, with_peak
from convmae.benchmarks.gpu.report import draw
from convmae.benchmarks.gpu.steps import fitting
from convmae.tools import benchmark

CPU = torch.device("cpu")
HEAD = {"comparison": "gpu", "date": "2026-01-02", "machine": {"device": "a card", "torch": "2"}, "tiny": False}


def battery(output: Path | None = None, budget: float = 100, **more: Any) -> Battery:
    return Battery(Setting(CPU), output, budget, HEAD, **more)


def item(*cases: Case, name: str = "it") -> Item:
    return Item(name, name.capitalize(), lambda setting: cases)


def nothing(rows: list[Row]) -> list[Row]:
    return []


def rows_of(path: Path) -> list[Row]:
    return json.loads(path.read_text())["rows"]


# One case or more of each item, those that take a second or two.
PICKED = [
    "machine", "right/MLP", "right/depthwise*", "right/attention*", "right/bf16*", "tasks/fine-tuning",
    "kernels/attention, 512 px", "kernels/attention*windows of 7", "kernels/depthwise*2", "kernels/top-1*",
    "detection/Mask*", "pretrain/ConvMAE*", "segmentation/encoder*", "compiled", "tuning/*1024*", "loading", "inference",
]  # fmt: skip


def test_every_item_runs_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmae.benchmarks.gpu.battery.GRACE", 300.0)  # other tests may hold the cores
    output = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--repeats", "1", "--threads", "1", "--output", str(output)]
    assert benchmark.main(["gpu", "--items", *PICKED, *options]) == 0
    found = json.loads(output.read_text())
    assert found["tiny"]
    items = [entry.name for entry in bench_gpu.ITEMS if entry.name != "small"]  # whose steps are those of `compiled`
    assert {row["item"] for row in found["rows"]} == set(items)
    needs_a_gpu = ("SDPA, mask, efficient", "SDPA, mask, cuDNN", "FlexAttention")
    broken = [row for row in found["rows"] if "error" in row and row.get("form") not in needs_a_gpu]
    assert not broken, broken[0].get("traceback", broken[0])
    times = [row[name] for row in found["rows"] for name in ("ms", "step ms", "forward ms", "a second") if name in row]
    assert len(times) > 40
    assert all(0 < value < math.inf for value in times)
    assert not found["left_out"]
    assert found["running"] is None
    printed = capsys.readouterr().out
    assert all(f"] {name}: " in printed for name in items)
    # Aims of speed are for full sizes on a GPU.
    assert {row["item"] for row in found["rows"] if "aim" in row} == {"right", "tasks"}


def test_a_published_model_is_right_on_a_cpu(fixtures_dir: Path) -> None:
    found = list(right.CHECKS["published classifier"](Setting(CPU, fixtures=fixtures_dir)))
    assert [entry.what for entry in found] == ["logits, fp32"]
    assert found[0].found <= found[0].allowed < 1e-4


def test_what_does_not_fit_the_time_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "found.json"
    run = battery(output, budget=50)
    first, second, third = (Case(name, seconds, lambda seconds: [{"ms": 1.0}]) for name, seconds in
                            (("short", 1), ("long", 60), ("shorter", 0.1)))  # fmt: skip
    run.run(item(first, second, third), nothing)
    run.close()
    assert [row["case"] for row in rows_of(output)] == ["short", "shorter"]
    assert json.loads(output.read_text())["left_out"]["it/long"].startswith("needs about 60 s, ")
    assert "left out: it/long" in capsys.readouterr().out
    again = battery(output, budget=100, resume=True)
    again.run(item(first, second, third), nothing)
    assert [row["case"] for row in rows_of(output)] == ["short", "shorter", "long"]
    assert json.loads(output.read_text())["left_out"] == {}


def test_the_time_of_an_earlier_run_is_what_is_expected(tmp_path: Path) -> None:
    run = battery(tmp_path / "found.json", budget=50, times={"it/case": 70.0})
    run.run(item(Case("case", 1, lambda seconds: [{"ms": 1.0}])), nothing)
    assert list(run.content["left_out"]) == ["it/case"]


def test_no_time_at_all_leaves_everything_out(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    options = ["--items", "machine", "kernels", "--budget", "0", "--device", "cpu", "--output", str(output)]
    assert benchmark.main(["gpu", *options]) == 0
    found = json.loads(output.read_text())
    assert found["rows"] == []
    assert {name.partition("/")[0] for name in found["left_out"]} == {"machine", "kernels"}


def test_a_failing_case_is_a_row_and_the_others_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def broken(seconds: float) -> Iterator[Row]:
        yield {"ms": 1.0}
        raise RuntimeError("no such kernel\nmore of it")

    run = battery(tmp_path / "found.json")
    run.run(item(Case("bad", 1, broken), Case("good", 1, lambda seconds: [{"ms": 2.0}])), nothing)
    run.run(Item("absent", "Absent", lambda setting: __import__("no_such_package")), nothing)
    kept, error, good, absent = rows_of(tmp_path / "found.json")
    assert (kept["ms"], good["ms"]) == (1.0, 2.0)
    assert error["error"] == "RuntimeError: no such kernel"
    assert "in broken" in error["traceback"]
    assert absent["error"].startswith("ModuleNotFoundError")
    assert "Traceback" in capsys.readouterr().out


def test_each_row_is_in_the_file_before_the_next_is_made(tmp_path: Path) -> None:
    output, seen = tmp_path / "found.json", []

    def watched(seconds: float) -> Iterator[Row]:
        for number in range(3):
            yield {"number": number}
            seen.append([row["number"] for row in rows_of(output)])

    battery(output).run(item(Case("case", 1, watched)), nothing)
    assert seen == [[0], [0, 1], [0, 1, 2]]


def test_a_case_in_which_the_process_ended_is_named_and_not_run_again(tmp_path: Path) -> None:
    output = tmp_path / "found.json"

    def killed(seconds: float) -> Iterator[Row]:
        yield {"ms": 1.0}
        raise KeyboardInterrupt

    cases = (Case("first", 1, lambda seconds: [{"ms": 2.0}]), Case("second", 1, killed))
    with pytest.raises(KeyboardInterrupt):
        battery(output).run(item(*cases), nothing)
    battery(output, resume=True).run(item(*cases, Case("third", 1, lambda seconds: [{"ms": 3.0}])), nothing)
    rows = rows_of(output)
    assert [row.get("ms") for row in rows] == [2.0, 1.0, None, 3.0]
    assert rows[2]["error"] == "the process ended while it ran"


def test_a_case_that_takes_far_too_long_is_ended(tmp_path: Path) -> None:
    def endless(seconds: float) -> Iterator[Row]:
        yield {"ms": 1.0}
        while True:
            with suppress(Exception):  # as libraries do; what ends a case passes it
                time.sleep(0.01)

    run = battery(tmp_path / "found.json", budget=0.5)
    run.run(item(Case("endless", 0.1, endless)), nothing)
    kept, error = rows_of(tmp_path / "found.json")
    assert kept["ms"] == 1.0
    assert error["error"].startswith(Overrun.__name__)
    assert "the time was up" in run.content["left_out"]["it/endless"]


def test_a_lost_gpu_ends_the_process_and_a_new_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    run = battery(tmp_path / "found.json")

    def fault(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("convmae.benchmarks.gpu.battery.wait", fault)
    with pytest.raises(DeviceLost, match="after it/case: CUDA error"):
        run.run(item(Case("case", 1, lambda seconds: [{"ms": 1.0}])), nothing)
    assert list(json.loads((tmp_path / "found.json").read_text())["cases"]) == ["it/case"]

    monkeypatch.setattr("os.execv", lambda program, words: started.append(words))
    monkeypatch.setattr("sys.argv", ["benchmark.py", "gpu", "--items", "machine"])
    options = ["gpu", "--items", "machine", "--device", "cpu", "--output", str(tmp_path / "gpu.json")]
    benchmark.main(options)
    assert started[0][1:5] == ["benchmark.py", "gpu", "--items", "machine"]
    assert started[0][5:7] == ["--resume", "--budget"]
    assert 0 < int(started[0][7]) <= 440


def test_a_file_of_another_machine_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps({**HEAD, "rows": [], "cases": {}, "running": None}))
    options = ["--items", "machine", "--device", "cpu", "--resume", "--output", str(tmp_path / "gpu.json")]
    assert benchmark.main(["gpu", *options]) == 2
    assert "another machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--items", "kernel"], "expected some of machine, right"),
        (["--data", "nowhere"], "no such folder"),
        (["--report", "page.md", "--read", "nowhere.json"], "nowhere.json can't be read"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert benchmark.main(["gpu", "--device", "cpu", *options]) == 2
    assert message in capsys.readouterr().err


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
    assert found.seconds == pytest.approx(1e-3, rel=0.5)


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


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("window", [None, (3, 2)])
def test_all_forms_are_the_same_attention(window: tuple[int, int] | None, decomposed: bool) -> None:
    torch.manual_seed(0)
    grid = (4, 5)
    kind = attention.Kind("some", 2, grid, window, decomposed)
    leaves = [x.detach().double() for x in kind.inputs(CPU)]
    forms = decomposed_forms(window) if decomposed else windowed_forms(window) if window else shared_forms(tiny=True)
    forms |= {} if window or decomposed else flex_forms(tiny=True)
    wanted = by_pairs(leaves, grid, window or grid, decomposed)
    compared = 0
    for name, form in forms.items():
        if name in ("SDPA, mask, efficient", "SDPA, mask, cuDNN", "SDPA, no positions"):
            continue
        torch.testing.assert_close(form(*leaves, grid), wanted, msg=name)
        compared += 1
    assert compared >= 3


def by_pairs(
    leaves: list[torch.Tensor], grid: tuple[int, int], window: tuple[int, int], decomposed: bool
) -> torch.Tensor:
    """The formula, one pair of tokens after the other."""
    query, key, value, *tables = leaves
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            if (row // window[0], column // window[1]) != (other_row // window[0], other_column // window[1]):
                scores[:, :, i, j] = -math.inf
                continue
            down, across = row - other_row + window[0] - 1, column - other_column + window[1] - 1
            if decomposed:
                scores[:, :, i, j] += query[:, :, i] @ (tables[0][down] + tables[1][across])
            else:
                scores[:, :, i, j] += tables[0][:, down, across]
    return scores.softmax(-1) @ value


def test_windows_of_the_whole_grid_are_the_grid() -> None:
    kind = attention.Kind("some", 2, (3, 4))
    leaves = [x.double() for x in kind.inputs(CPU)]
    torch.testing.assert_close(in_plain_windows((3, 4), plain, *leaves, (3, 4)), plain(*leaves, (3, 4)))


def test_an_error_is_found_wherever_it_is() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 3, 20, 8, dtype=torch.float64) for _ in range(3)]
    leaves += [torch.randn(3, 7, 9, dtype=torch.float64)]

    def off(factor: float, number: int) -> list[float]:
        """With the gradient of one leaf, or the output, too large."""

        class Wrong(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
                return grad * factor

        def form(*given: torch.Tensor) -> torch.Tensor:
            changed = [Wrong.apply(x) if index == number else x for index, x in enumerate(given)]
            return plain(*changed, (4, 5)) * (factor if number < 0 else 1)

        return errors(form, lambda *given: plain(*given, (4, 5)), leaves, CPU, None)

    assert max(off(1.0, 0)) < 1e-5
    for number in range(-1, 4):
        found = off(1.01, number)
        assert found[number + 1] == pytest.approx(0.01, rel=0.01)
        assert [value > 1e-3 for value in found] == [index == number + 1 or number < 0 for index in range(5)]


def test_what_is_read_beyond_an_input_or_never_written_shows() -> None:
    leaves = [torch.randn(2, 3, 20, 8, dtype=torch.float64)]

    def beyond(x: torch.Tensor) -> torch.Tensor:
        return x + 0 * torch.as_strided(x, (1,), (1,), x.storage_offset() + x.numel())

    assert errors(beyond, lambda x: x * 1, leaves, CPU, None)[0] == math.inf


def test_bf16_is_judged_by_pytorchs_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(CPU, tiny=True)
    found = list(right.CHECKS["bf16 gradients, shared table"](setting))
    assert all(entry.found <= entry.allowed for entry in found)
    coarse = right.SHARED._replace(
        form=lambda q, k, v, t, grid: plain(q, k, v, t, grid).to(torch.float8_e5m2).to(q.dtype)
    )
    worse = list(right._gradients(coarse, setting))
    assert any(entry.found > entry.allowed for entry in worse)


def test_plain_decomposed_positions_are_their_formula() -> None:
    kind = attention.Kind("some", 1, (2, 3), None, True)
    leaves = [x.double() for x in kind.inputs(CPU)]
    torch.testing.assert_close(plain_decomposed(*leaves, (2, 3)), by_pairs(leaves, (2, 3), (2, 3), True))


STEPS: list[Row] = [
    {"case": "ConvMAE, 224 px", "form": "dense", "mode": "step", "ms": 150.0, "a second": 1700.0, "GiB": 30.0},
    {"case": "ConvMAE, 224 px", "form": "shipped", "mode": "step", "ms": 60.0, "a second": 4266.0, "GiB": 13.0},
    {"case": "ConvMAE, 224 px, compiled", "form": "shipped", "mode": "step", "ms": 61.0, "a second": 4196.0, "GiB": 13.0},
    {"case": "ConvMAE, 224 px, compiled", "form": "compiled", "mode": "step", "ms": 55.0, "a second": 4654.0, "GiB": 12.0},
    {"case": "ConvMAE, 224 px", "profile": "shipped", "kernel": "layer_norm", "calls": 40, "ms": 20.0, "part": 0.3},
]  # fmt: skip


def test_aims_are_judged_by_the_rows_of_their_item() -> None:
    found = {row["aim"]: row for row in judge(STEPS, "pretrain", full=True)}
    assert len(found) == 2  # of FastConvMAE there is nothing
    assert (
        found["ConvMAE 224 px, pictures a second"]["measured"],
        found["ConvMAE 224 px, pictures a second"]["met"],
    ) == (4266, True)
    assert found["ConvMAE 224 px, over the dense form"]["measured"] == 2.5
    assert [(row["measured"], row["met"]) for row in judge(STEPS, "compiled", full=True)] == [(4654, False)]
    assert judge(STEPS, "pretrain", full=False) == []
    encoder = [
        {"case": "encoder, 1024 px, batch 4", "form": "plain", "mode": "step", "ms": 120.0, "GiB": 36.0},
        {"case": "encoder, 1024 px, batch 4", "form": "shipped", "mode": "step", "ms": 90.0, "GiB": 18.0},
        {"case": "encoder, 1024 px, batch 4", "form": "shipped", "mode": "forward", "ms": 20.0},
        {"case": "Mask R-CNN, 1024 px, batch 4", "form": "shipped", "mode": "step", "a second": 40.0, "GiB": 15.0},
    ]
    judged = judge(encoder, "detection", full=True)
    assert [(row["measured"], row["met"]) for row in judged] == [
        (120 / 90, False),
        (0.5, False),
        (0.025, True),
        (15.0, True),
    ]


def test_a_deviation_out_of_bounds_misses_its_aim_at_any_size() -> None:
    rows = [
        {"case": "published classifier", "what": "logits, fp32", "found": 2e-5, "allowed": 1e-5},
        {"case": "published classifier", "what": "logits, bf16", "found": 5e-3, "allowed": 1e-2},
        {"case": "MLP", "what": "MLP, fp32, output", "found": math.inf, "allowed": 1e-5},
    ]
    assert [(row["measured"], row["met"]) for row in judge(rows, "right", full=False)] == [
        (2, False),
        (0.5, True),
        (math.inf, False),
    ]


def test_the_page_says_what_is_unmeasured(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    counts = {"comparison": "steps", "machine": {"torch": "2"}, "rows": [{"model": "ConvViTDet", "kernels": 1433}]}
    (tmp_path / "steps.json").write_text(json.dumps(counts))
    trial = {**HEAD, "tiny": True, "rows": [{"item": "machine", "case": "ceilings", "launch us": 3.0}]}
    (tmp_path / "trial.json").write_text(json.dumps(trial))
    files = ["--read", str(tmp_path / "steps.json"), str(tmp_path / "trial.json")]
    assert benchmark.main(["gpu", "--report", str(page), *files]) == 0
    text = page.read_text()
    assert "No run on a GPU has been read" in text
    assert text.count("| unmeasured |") == len(AIMS)
    assert "| ConvViTDet | 1433 |" in text
    assert "launch us" not in text  # tiny sizes say nothing


def test_the_page_shows_aims_cases_errors_and_what_to_mend(tmp_path: Path) -> None:
    run = battery(tmp_path / "gpu.json", budget=30)

    def steps(seconds: float) -> Iterator[Row]:
        yield from (
            {name: value for name, value in row.items() if name != "case"}
            for row in STEPS
            if row["case"] == "ConvMAE, 224 px"
        )

    def compiled(seconds: float) -> Iterator[Row]:
        yield {"form": "compiled", "mode": "step", "ms": 55.0, "a second": 4654.0}
        raise RuntimeError("a < b")

    def checks(seconds: float) -> Iterator[Row]:
        for found in (1e-6, 2e-5):
            yield {"what": f"off by {found}", "found": found, "allowed": 1e-5, "met": found <= 1e-5}

    cases = (
        Case("ConvMAE, 224 px", 1, steps),
        Case("ConvMAE, 224 px, compiled", 1, compiled),
        Case("later", 99, steps),
    )
    run.run(
        item(*cases, name="pretrain"),
        lambda rows: [row for name in ("pretrain", "compiled") for row in judge(rows, name, True)],
    )
    run.run(item(Case("MLP", 1, checks), name="right"), nothing)
    text = draw([json.loads((tmp_path / "gpu.json").read_text())], [item(name="right"), item(name="pretrain")])
    assert "## a card, 2026-01-02" in text
    assert "| ConvMAE 224 px, pictures a second | at least 4000 | 4266 | met |" in text
    assert "| ConvMAE 224 px compiled, pictures a second | at least 5000 | 4654 | **missed** |" in text
    assert "| ConvMAE, 224 px | shipped | layer_norm | 40 | 20 | 0.3 |" in text
    assert "MLP: 2 checks, **1 missed**; nearest to its bound: off by 2e-05, 2e-05 of 1e-05" in text
    assert "- ConvMAE, 224 px, compiled: failed, RuntimeError: a &lt; b" in text
    assert "- pretrain/later: needs about" in text
    assert "unmeasured" not in text


def test_the_shipped_page_is_drawn_from_what_lies_beside_it() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    files = [json.loads(path.read_text()) for path in sorted(docs.glob("gpu*.json"))]
    assert (docs / "gpu.md").read_text() == draw(files, bench_gpu.ITEMS)


def test_deviations_name_what_they_are_of() -> None:
    assert Deviation("x", 1.0, 2.0).found < Deviation("x", 1.0, 2.0).allowed
    assert deviation.LIMIT.keys() == deviation.DTYPES.keys()
