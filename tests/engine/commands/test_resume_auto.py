"""--resume auto: one command that starts a run, continues it, and takes no other for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import convmae
from convmae.engine.errors import START_AGAIN, STOPPED, UserError
from convmae.engine.training import loops
from convmae.tools import pretrain

OPTIONS = [
    "data.root=pictures", "data.batch_size=1", "data.workers=0", "model.img_size=32", "model.decoder_depth=1",
    "schedule.steps=2", "schedule.save_every=1", "runtime.device=cpu", "runtime.precision=fp32",
]  # fmt: skip


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Gives the command of a run of two steps on a blank picture, which may be given other options."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "pictures" / "a.png")

    def call(*options: str, folder: str = "run") -> int:
        words = ["--config", "fastconvmae_tiny_96px.yaml", "--work-dir", folder, "--resume", "auto"]
        return pretrain.main([*words, "--cfg-options", *OPTIONS, *options])

    return call


def weights(folder: str) -> dict[str, torch.Tensor]:
    return torch.load(f"{folder}/step_2.pth", weights_only=True)["state_dict"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR1, START_AGAIN), (signal.SIGTERM, STOPPED)])
def test_the_same_command_starts_continues_and_ends_equal(
    number: int, status: int, start: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run_step = loops.TrainLoop.run_step

    def stopped_step(loop: loops.TrainLoop, parts: list) -> None:
        run_step(loop, parts)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(loops.TrainLoop, "run_step", stopped_step)
        assert start() == status
    said = capsys.readouterr()
    assert "no checkpoint yet: starts from step 0" in said.out
    assert "Stopped after step 1 of 2" in said.err
    assert start() == 0
    assert "continues from step_1.pth" in capsys.readouterr().out
    assert start(folder="whole") == 0
    run, whole = weights("run"), weights("whole")
    assert all(torch.equal(run[name], value) for name, value in whole.items())
    before = {path: path.read_bytes() for path in Path("run").glob("*.pth")}
    assert start() == 0  # of a run that has ended, nothing changes
    assert before == {path: path.read_bytes() for path in Path("run").glob("*.pth")}


def test_another_run_is_named_and_left_as_it_is(start: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert start() == 0
    files = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert start("optim.lr=0.5", "runtime.seed=1") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: run holds another run: ")
    for words in ("optim.lr is ", "there and 0.5 in this command (1 more)", "give another --work-dir".capitalize()):
        assert words in said
    assert said.count("\n") == 1
    assert files == {path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.is_file()}


def test_how_it_is_computed_may_change(start: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert start() == 0
    data = next(line.split()[1] for line in Path("run", "config.yaml").read_text().splitlines() if "root: " in line)
    assert start(f"data.root={data}/") == 0
    assert start("data.workers=1", "runtime.timeout=60", "schedule.keep_checkpoints=-1") == 0
    assert "continues with data.workers 1, not 0 as before" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_passed_over_and_said(start: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert start() == 0
    expected, last = weights("run"), Path("run", "step_2.pth")
    last.write_bytes(last.read_bytes()[:-1000])
    assert start() == 0
    said = capsys.readouterr().out
    assert "step_2.pth is passed over: " in said
    assert "continues from step_1.pth" in said
    found = weights("run")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_folder_that_cannot_be_written_is_one_message(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert start() == 2
    expected = "error: The work directory run can't be written: Permission denied. Give another by --work-dir.\n"
    assert capsys.readouterr().err == expected


def test_python_has_it_too(start: Callable[..., int]) -> None:
    given = {"config": "fastconvmae_tiny_96px.yaml", "work_dir": "run", "resume": "auto"}
    options = dict(option.split("=") for option in OPTIONS)
    convmae.pretrain(**given, **options)
    assert start() == 0
    with pytest.raises(UserError, match="resume='auto' continues what the same command began"):
        convmae.pretrain(**given, **{**options, "optim.lr": 0.5})
    with pytest.raises(UserError, match="expected True, False or 'auto'"):
        convmae.pretrain(**{**given, "resume": "yes"}, **options)


def test_sigusr1_before_the_first_step_asks_for_another_start(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGUSR1)\ntime.sleep(60)\n"
    )
    (tmp_path / "recipe.yaml").write_text(f"data:\n  root: {tmp_path}\n")
    done = subprocess.run(
        [sys.executable, "-m", "convmae.tools.pretrain", "--config", "recipe.yaml", "--resume", "auto"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    said = "\nStopped by SIGUSR1; the same command with --resume auto goes on.\n"
    assert (done.returncode, done.stdout, done.stderr) == (START_AGAIN, "", said)
