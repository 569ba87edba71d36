"""Trackers by their own libraries, offline; one that is absent, can't start or fails in the middle of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_run import Config, run

from convmae.engine.curves import trackers
from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.engine.training.scalars import read_scalars


def config_of(tracker: str, steps: int = 6) -> Config:
    config = Config()
    config.runtime.tracker, config.schedule.steps = tracker, steps
    return config


class Recorder:
    """Stands for a library: keeps what it is told, and fails where the test says."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.started: list[str | None] = []
        self.ended = 0
        self.fails_at = 0

    def start(self, work_dir: Path, options: Any, known: str | None) -> trackers._Started:
        assert options["optim"]["lr"] == 0.01
        self.started.append(known)
        return trackers._Started("run-7", self.add, self.end)

    def add(self, step: int, row: dict[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("the server\nis gone.")
        self.rows.append((step, dict(row)))

    def end(self) -> None:
        self.ended += 1


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setitem(trackers._STARTS, "wandb", found.start)
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())
    return found


def test_it_gets_the_rows_of_the_run_and_goes_on_in_the_same(recorder: Recorder, tmp_path: Path) -> None:
    run(tmp_path / "run", config_of("wandb", 3))
    run(tmp_path / "run", config_of("wandb", 6), resume=True)
    assert recorder.started == [None, "run-7"]
    assert recorder.ended == 2
    rows = [(int(row.pop("step")), row) for row in read_scalars(tmp_path / "run")]
    assert recorder.rows == rows
    assert json.loads((tmp_path / "run" / "tracker.json").read_text()) == {"wandb": "run-7"}


def test_one_that_fails_is_named_once_and_ends_no_run(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", said.append)
    recorder.fails_at = 3
    left = run(tmp_path / "run", config_of("wandb"))
    assert [step for step, _ in recorder.rows] == [1, 2]
    assert [line for line in said if "wandb failed" in line] == [
        "wandb failed and gets no more of this run, whose curves are in its work directory: the server is gone"
    ]
    assert len(read_scalars(tmp_path / "run")) == 6
    plain = run(tmp_path / "plain", config_of("none"))
    assert all(left[name].equal(plain[name]) for name in plain)


def test_one_that_can_t_start_is_refused_before_the_first_step(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: Any) -> None:
        raise RuntimeError("no key.")

    monkeypatch.setitem(trackers._STARTS, "wandb", start)
    with pytest.raises(UserError, match=r"wandb can't be started: no key\. Expected"):
        run(tmp_path / "run", config_of("wandb"))
    assert not read_scalars(tmp_path / "run")


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_one_that_is_not_installed_is_named_with_the_way_to_get_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=rf"runtime\.tracker is {kind}, which is not installed here.*pip install {kind}"
    ):
        run(tmp_path / "run", config_of(kind))


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path / "run", config_of("wandb"))
    name = json.loads((tmp_path / "run" / "tracker.json").read_text())["wandb"]
    (kept,) = (tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb")
    content = kept.read_bytes()
    assert b"seconds_per_step" in content
    assert b"pictures_per_second" in content


def test_mlflow_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    run(tmp_path / "run", config_of("mlflow", 3))
    run(tmp_path / "run", config_of("mlflow", 6), resume=True)
    name = json.loads((tmp_path / "run" / "tracker.json").read_text())["mlflow"]
    found = mlflow.MlflowClient()
    losses = sorted((metric.step, metric.value) for metric in found.get_metric_history(name, "loss"))
    assert losses == [(row["step"], row["loss"]) for row in read_scalars(tmp_path / "run")]
    assert found.get_run(name).data.params["optim.lr"] == "0.01"
    assert found.get_run(name).info.status == "FINISHED"
