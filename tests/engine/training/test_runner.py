"""The promises of a run: it can be stopped, continued, split and loaded in any way, with the same result."""

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from small_run import Config, Mean, Noise, Regression, assert_same, run, weights
from torch import nn
from torch.utils.data import Dataset

from convmae.engine.errors import Interrupted, UserError
from convmae.engine.log import duration, start_log
from convmae.engine.options import OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.training.checkpoints import latest_checkpoint
from convmae.engine.training.runner import Runner
from convmae.engine.training.train import train


class StopAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(
        self, runner: object, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        if batch_idx + 1 == self.step:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Config())
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        run(tmp_path / "parts", Config(), hooks=[StopAt(4)])
    assert latest_checkpoint(tmp_path / "parts").name == "step_4.pth"
    assert_same(whole, run(tmp_path / "parts", Config(), resume=True))


def test_the_number_of_loader_processes_changes_nothing(tmp_path: Path) -> None:
    config = Config()
    config.data.workers = 2
    assert_same(run(tmp_path / "none", Config()), run(tmp_path / "two", config))


def test_accumulated_parts_equal_the_whole_batch_without_dropout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    config = Config()
    config.data.accumulate = 2
    assert_same(run(tmp_path / "whole", Config()), run(tmp_path / "parts", config), 1e-6)


def test_files_of_a_run(tmp_path: Path) -> None:
    config = Config()
    config.schedule.eval_every = 3
    metrics = [Mean()]
    run(tmp_path / "run", config, val_set=Noise(), metrics=metrics, best="mean")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.yaml", "scalars.jsonl", "tensorboard", "step_3.pth", "step_6.pth", "best.pth"}
    rows = [json.loads(line) for line in (tmp_path / "run" / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [(row["step"], row["count"]) for row in rows if "mean" in row] == [(3, 10), (6, 10)]


def test_a_resumed_run_logs_every_step_once(tmp_path: Path) -> None:
    """The process died after step 5, and after an evaluation at step 4, with a checkpoint of step 4."""
    config = Config()
    config.schedule.eval_every, config.schedule.save_every = 2, 2
    options = {"val_set": Noise(), "metrics": [Mean()]}
    run(tmp_path, config, **options)
    path = tmp_path / "scalars.jsonl"
    (tmp_path / "step_6.pth").unlink()
    whole = path.read_text().splitlines()
    path.write_text("\n".join([*whole[:7], '{"step": 6, "lo']))
    run(tmp_path, config, resume=True, **options)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "mean" in row] == [2, 4, 6]
    assert [row.get("loss") for row in rows] == [json.loads(line).get("loss") for line in whole]


def test_a_run_that_died_before_its_first_checkpoint_logs_every_step_once(tmp_path: Path) -> None:
    run(tmp_path, Config())
    path = tmp_path / "scalars.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:3]) + "\n")
    for checkpoint in tmp_path.glob("step_*.pth"):
        checkpoint.unlink()
    run(tmp_path, Config(), resume=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [
        (row["step"], row["loss"]) for row in map(json.loads, whole)
    ]


def test_the_best_weights_outlive_a_run_that_is_killed_and_resumed(tmp_path: Path) -> None:
    class Given(Mean):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def compute_metrics(self, results: list) -> dict:
            return {"mean": self.value}

    config = Config()
    config.schedule.eval_every = 3
    with pytest.raises(Interrupted):
        run(tmp_path, config, hooks=[StopAt(4)], val_set=Noise(), metrics=[Given(0.9)], best="mean")
    (tmp_path / "step_4.pth").unlink()  # as if killed there: step_3.pth is older than the evaluation after step 3
    run(tmp_path, config, val_set=Noise(), metrics=[Given(0.5)], best="mean", resume=True)
    best = torch.load(tmp_path / "best.pth", weights_only=True)
    assert best["meta"] == {"step": 3, "metric": "mean", "value": 0.9}
    assert best["config"] == (tmp_path / "config.yaml").read_text()


def test_a_shorter_schedule_does_not_continue_a_longer_run(tmp_path: Path) -> None:
    run(tmp_path, Config())
    shorter = Config()
    shorter.schedule.steps = 4
    with pytest.raises(UserError, match=r"step_6\.pth is of a longer run than this one of 4 steps"):
        run(tmp_path, shorter, resume=True)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    config = Config()
    config.schedule.save_every, config.schedule.keep_checkpoints = 1, 2
    run(tmp_path / "run", config)
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["step_5.pth", "step_6.pth"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": {"other": torch.zeros(1)}, "optimizer": {}, "meta": {}}, tmp_path / "run" / "step_3.pth")
    with pytest.raises(UserError, match=r"step_3\.pth does not continue this run"):
        run(tmp_path / "run", Config(), resume=True)


def test_a_checkpoint_of_other_shapes_is_refused_by_the_first_that_differs(tmp_path: Path) -> None:
    run(tmp_path / "run", Config(schedule=ScheduleOptions(steps=3, save_every=3)))
    path = latest_checkpoint(tmp_path / "run")
    assert path is not None
    content = torch.load(path, weights_only=True)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = torch.zeros(9, 9)
    torch.save(content, path)
    with pytest.raises(
        UserError, match=rf"not continue this run: .* state_dict, {re.escape(name)}: is float32 of shape "
    ):
        run(tmp_path / "run", Config(), resume=True)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "harm"),))

    (tmp_path / "run").mkdir()
    torch.save({"state_dict": Attack(), "meta": {}}, tmp_path / "run" / "step_3.pth")
    with pytest.raises(UserError):
        run(tmp_path / "run", Config(), resume=True)
    assert not (tmp_path / "harm").exists()


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    config = Config()
    config.data.accumulate = 3
    with pytest.raises(UserError, match="a batch of 4 does not divide"):
        run(tmp_path / "run", config)


def test_runs_in_a_thread_leave_signals_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run, args=(tmp_path / "run", Config()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "run" / "step_6.pth").is_file()


def test_bf16_runs_on_a_cpu(tmp_path: Path) -> None:
    config = Config()
    config.runtime.precision = "bf16"
    exact, rough = run(tmp_path / "fp32", Config()), run(tmp_path / "bf16", config)
    assert rough["model.weight"].dtype is torch.float32
    assert not torch.equal(exact["model.weight"], rough["model.weight"])
    assert_same(exact, rough, 0.03)


class Unstable(Regression):
    """A model whose loss is not finite where a sample of ``Numbers`` is among ``bad``."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.bad = bad
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor, mode: str = "loss") -> dict | list:
        if any(round(value) in self.bad for value in x.mean(1).tolist()):
            x = x * float("inf")
        return super().forward(self.norm(x), mode)


class Numbers(Dataset):
    """Ten samples that hold their index."""

    def __len__(self) -> int:
        return 10

    def name(self, index: int) -> str:
        return f"picture{index}.png"

    def __getitem__(self, index: int) -> dict:
        return {"x": torch.full((3,), float(index))}


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_step_that_is_not_finite_is_skipped_and_its_pictures_are_named(clip: float, tmp_path: Path) -> None:
    config = Config()
    config.optim.clip_grad, config.schedule.save_every = clip, 1
    config.schedule.keep_checkpoints = -1
    start_log(tmp_path)
    train(Unstable({7}), Numbers(), config=config, work_dir=tmp_path)
    # 24 samples: twice all ten and four more, so sample 7 makes two or three steps bad.
    said = re.findall(r"step (\d+) skipped.*\((\d) so far\)(.*)", (tmp_path / "log.txt").read_text())
    bad = [int(step) for step, _, _ in said]
    assert len(bad) in (2, 3)
    assert [int(count) for _, count, _ in said] == list(range(1, len(bad) + 1))
    assert all("picture7.png" in names for _, _, names in said)
    states = {step: torch.load(tmp_path / f"step_{step}.pth", weights_only=True)["state_dict"] for step in range(1, 7)}
    for step in range(2, 7):
        same = torch.equal(states[step]["model.weight"], states[step - 1]["model.weight"])
        assert same == (step in bad)
    assert all(value.isfinite().all() for value in states[6].values())
    rows = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [step for step in range(1, 7) if step not in bad]


class Wandering(Regression):
    """A model that logs another loss in every second step, and infinity in the third."""

    def forward(self, x: torch.Tensor, mode: str = "loss") -> dict | list:
        self.step = getattr(self, "step", 0) + 1
        loss = super().forward(x, mode)["loss"]
        noted = torch.tensor(float("inf") if self.step == 3 else float(self.step))
        return {"loss": loss, "every": noted, **({} if self.step % 2 else {"second": noted})}


def test_a_log_line_has_the_mean_of_each_loss_over_the_steps_that_have_it(tmp_path: Path) -> None:
    config = Config(runtime=RuntimeOptions(device="cpu", precision="fp32", log_every=4))
    config.schedule.steps = 4
    train(Wandering(), Noise(), config=config, work_dir=tmp_path)
    (row,) = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert row["every"] == pytest.approx((1 + 2 + 4) / 3)
    assert row["second"] == pytest.approx((2 + 4) / 2)
    assert 0 < row["loss"] < 100


@pytest.mark.parametrize(("steps", "done"), [(6, 4), (3, 3)])  # in the midst, and where the run has ended but for that
def test_a_run_of_steps_that_are_not_finite_stops_the_run_and_leaves_a_checkpoint(
    steps: int, done: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, told = Config(), threading.excepthook
    config.schedule.steps, config.runtime.bad_steps, config.schedule.save_every = steps, 3, 100
    with pytest.raises(UserError, match="3 steps in a row, the last being step 3;"):
        train(Unstable(set(range(10))), Numbers(), config=config, work_dir=tmp_path)
    assert f"step_{done}.pth continues with --resume" in caplog.text
    assert all(value.isfinite().all() for value in weights(tmp_path).values())
    rows = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, done + 1))
    assert threading.excepthook is told  # TensorBoard's file is closed


def test_a_run_loads_a_whole_step_ahead(tmp_path: Path) -> None:
    class Look(Hook):
        def before_train(self, runner: Runner) -> None:
            seen.append(runner.train_dataloader.prefetch_factor)

    seen: list[int] = []
    config = Config()
    config.data.accumulate, config.data.workers = 4, 1
    run(tmp_path, config, hooks=[Look()])
    assert seen == [4]


@pytest.mark.parametrize(("seconds", "text"), [(7, "7 s"), (250, "4 min 10 s"), (7385, "2 h 03 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_resumed_run_takes_changed_options_and_names_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "run", Config(schedule=ScheduleOptions(steps=3, save_every=3)))
    changed = Config(optim=OptimOptions(lr=0.01, weight_decay=0.3, betas=[0.5, 0.6]))
    run(tmp_path / "run", changed, resume=True)
    state = torch.load(latest_checkpoint(tmp_path / "run"), weights_only=True)["optimizer"]
    assert {group["betas"] for group in state["param_groups"]} == {(0.5, 0.6)}
    assert 0.3 in {group["weight_decay"] for group in state["param_groups"]}
    assert state["state"][0]["step"] == 6
    assert "continues with optim.weight_decay 0.3, not 0.05 as before" in caplog.text


def test_a_refused_checkpoint_leaves_the_recipe_of_its_run(tmp_path: Path) -> None:
    run(tmp_path / "run", Config())
    before = (tmp_path / "run" / "config.yaml").read_text()
    shorter = Config(schedule=ScheduleOptions(steps=2), optim=OptimOptions(lr=0.5))
    with pytest.raises(UserError, match="longer run"):
        run(tmp_path / "run", shorter, resume=True)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_an_evaluation_is_announced_where_there_is_something_to_evaluate_on(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = Config()
    config.schedule.eval_every = 3
    start_log(tmp_path)
    train(Unstable(set()), Numbers(), config=config, work_dir=tmp_path)
    assert "a checkpoint every" in (said := capsys.readouterr().out)
    assert "an evaluation every" not in said
