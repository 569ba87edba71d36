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
from convmae.benchmarks.gpu.agreement import right
from convmae.benchmarks.gpu.aims import judge
from convmae.benchmarks.gpu.battery import Battery, Case, DeviceLost, Item, Overrun, Row, Setting
from convmae.benchmarks.gpu.report import draw
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


def test_the_page_shows_aims_cases_errors_and_what_to_mend(tmp_path: Path, measured: list[Row]) -> None:
    run = battery(tmp_path / "gpu.json", budget=30)

    def steps(seconds: float) -> Iterator[Row]:
        yield from (
            {name: value for name, value in row.items() if name != "case"}
            for row in measured
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
