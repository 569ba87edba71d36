"""Two processes equal one with the same global batch, and stop together."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from launch import forked, two_processes
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.machine import processes
from convmae.engine.machine.processes import start_processes
from convmae.engine.options import RuntimeOptions
from convmae.engine.training.checkpoints import latest_checkpoint
from convmae.engine.training.scalars import read_scalars
from convmae.tools import pretrain

STOP_ONE = '''
"""Pretraining in which the second process alone is told to stop."""

import os
import signal
import sys

from mmengine.hooks import Hook

import convmae.pretraining.train
from convmae.tools import pretrain

run_training = convmae.pretraining.train.run_training


class StopOne(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 1 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGINT)


convmae.pretraining.train.run_training = lambda *args, hooks, **kwargs: run_training(
    *args, hooks=[*hooks, StopOne()], **kwargs
)
sys.exit(pretrain.main())
'''

COMPILED = '''
"""Pretraining compiled without generated code, which takes a minute."""

import functools
import sys

import convmae.engine.training.train
from convmae.engine.machine import compilation
from convmae.tools import pretrain

compilation.check_compiler = convmae.engine.training.train.check_compiler = lambda device: None
convmae.engine.training.train.compile_methods = functools.partial(compilation.compile_methods, backend="aot_eager")
sys.exit(pretrain.main())
'''


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A run of four steps on six pictures."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    return [
        "--config",
        "fastconvmae_tiny_96px.yaml",
        "--cfg-options",
        "model.img_size=32",
        "model.groups=2",
        "data.batch_size=4",
        "data.workers=0",
        "schedule.epochs=null",
        "schedule.steps=4",
        "schedule.warmup=1",
        "runtime.precision=fp32",
        "runtime.device=cpu",
        f"data.root={tmp_path / 'pictures'}",
    ]


def assert_same(left: Path, right: Path) -> None:
    one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (left, right))
    # A few steps at 1e-3; where a gradient is all but zero, AdamW makes its sign a step of full length.
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)


def test_two_processes_equal_one_and_stop_together(options: list[str], tmp_path: Path) -> None:
    assert pretrain.main([*options, "--work-dir", str(tmp_path / "one")]) == 0
    (tmp_path / "stop_one.py").write_text(STOP_ONE)
    stopped = two_processes("stop_one.py", *options, "--work-dir", "two", cwd=tmp_path)
    assert stopped.stderr.count("Stopped after step 2 of 4") == 1, stopped.stderr[-3000:]
    assert stopped.returncode != 0
    assert latest_checkpoint(tmp_path / "two") == tmp_path / "two" / "step_2.pth"
    shutil.copytree(tmp_path / "two", tmp_path / "fewer")
    done = two_processes("-m", "convmae.tools.pretrain", *options, "--work-dir", "two", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert pretrain.main([*options, "--work-dir", str(tmp_path / "fewer"), "--resume", "auto"]) == 0
    one, *others = ([row["loss"] for row in read_scalars(tmp_path / name)] for name in ("one", "two", "fewer"))
    for name, losses in zip(("two", "fewer"), others, strict=True):
        assert_same(tmp_path / "one" / "step_4.pth", tmp_path / name / "step_4.pth")
        assert losses == pytest.approx(one, abs=1e-5)  # of all pictures of a step, not of the first process's


def test_a_run_of_one_process_goes_on_with_two(options: list[str], tmp_path: Path) -> None:
    options += ["schedule.save_every=2"]
    assert pretrain.main([*options, "--work-dir", str(tmp_path / "one")]) == 0
    shutil.copytree(tmp_path / "one", tmp_path / "more")
    (tmp_path / "more" / "step_4.pth").unlink()
    words = [*options, "--work-dir", "more", "--resume", "auto"]
    done = two_processes("-m", "convmae.tools.pretrain", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "continues from step_2.pth" in done.stdout
    assert_same(tmp_path / "one" / "step_4.pth", tmp_path / "more" / "step_4.pth")
    one, more = ([row["loss"] for row in read_scalars(tmp_path / name)] for name in ("one", "more"))
    assert more == pytest.approx(one, abs=1e-5)


def test_two_processes_skip_the_pictures_that_one_skips(options: list[str], tmp_path: Path) -> None:
    for number in (1, 4):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"cut off")
    options += ["data.bad_share=0.5", "schedule.steps=3"]
    assert pretrain.main([*options, "--work-dir", str(tmp_path / "one")]) == 0
    done = two_processes("-m", "convmae.tools.pretrain", *options, "--work-dir", "two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "one" / "step_3.pth", tmp_path / "two" / "step_3.pth")
    logs = [(tmp_path / name / "log.txt").read_text(encoding="utf-8") for name in ("one", "two")]
    said = [[line.split("  ", 1)[1] for line in log.splitlines() if "takes the place" in line] for log in logs]
    assert said[0] == said[1]
    assert len(said[0]) == 2


def test_two_compiled_processes_equal_one_that_is_not(options: list[str], tmp_path: Path) -> None:
    options += ["runtime.checkpoint_activations=true", "model.decoder_depth=1", "schedule.steps=2"]
    assert pretrain.main([*options, "--work-dir", str(tmp_path / "one")]) == 0
    (tmp_path / "compiled.py").write_text(COMPILED)
    done = two_processes("compiled.py", *options, "--compile", "--work-dir", "two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "one" / "step_2.pth", tmp_path / "two" / "step_2.pth")


def test_processes_that_slurm_started_find_each_other(tmp_path: Path) -> None:
    tool = tmp_path / "scontrol"
    tool.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[3-4]" ] && printf "127.0.0.1\\nnode4\\n"\n')
    tool.chmod(0o755)
    (tmp_path / "task.py").write_text(
        "import torch, torch.distributed as dist\n"
        "from convmae.engine.machine.processes import any_process, start_processes\n"
        "from convmae.engine.options import RuntimeOptions\n"
        "start_processes('slurm', RuntimeOptions(device='cpu'))\n"
        "print(dist.get_rank(), dist.get_world_size(), *any_process(dist.get_rank() == 1))\n"
    )
    tasks = [
        subprocess.Popen(
            [sys.executable, "task.py"],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": "0",
                "SLURM_NTASKS": "2",
                "SLURM_JOB_ID": str(os.getpid()),
                "SLURM_STEP_NODELIST": "node[3-4]",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [task.communicate(timeout=120)[0].split() for task in tasks] == [["0", "2", "True"], ["1", "2", "True"]]


def test_a_run_whose_whole_group_is_ended_leaves_a_checkpoint(options: list[str], tmp_path: Path) -> None:
    long = [*options, "data.workers=1", "schedule.steps=10000", "schedule.warmup=1", "runtime.log_every=1"]
    command = [sys.executable, "-m", "convmae.tools.pretrain", *long, "--work-dir", "run"]
    run = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    said = []
    for line in run.stdout:
        said.append(line)
        if "step 2/10000" in line:
            os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(timeout=60) != 0
    assert "continues with --resume" in said[-1], said
    assert not any("Traceback" in line for line in said)
    assert latest_checkpoint(tmp_path / "run") is not None


def test_a_run_whose_loader_process_is_stopped_ends_with_one_message_and_a_checkpoint(
    options: list[str], tmp_path: Path
) -> None:
    long = [*options, "data.workers=1", "data.timeout=1", "schedule.steps=10000", "runtime.log_every=1"]
    command = [sys.executable, "-m", "convmae.tools.pretrain", *long, "--work-dir", "run"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, workers = [], []
    for line in run.stdout:
        said.append(line)
        if "step 2/10000" in line:
            workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            for worker in workers:
                os.kill(int(worker), signal.SIGSTOP)
    assert run.wait(timeout=60) == 2
    assert "no batch for 1 s (data.timeout)" in said[-1], said
    assert not any("Traceback" in line for line in said)
    assert latest_checkpoint(tmp_path / "run") is not None
    assert workers
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_processes_wait_for_each_other_as_long_as_the_option_says(tmp_path: Path) -> None:
    def waits(rank: int) -> timedelta:
        dist.destroy_process_group()
        os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getppid() % 10_000)})
        start_processes("pytorch", RuntimeOptions(device="cpu", timeout=77))
        return dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu")).options._timeout

    assert forked(waits, tmp_path) == [timedelta(seconds=77)] * 2


def test_hosts_give_up_before_their_gpus_do(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {}
    monkeypatch.setattr(processes, "resolve_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(processes, "_hosts", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "rendezvous", lambda place, timeout: iter([(dist.HashStore(), 0, 1)]))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout, **_: limits.update({backend: timeout}))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: limits.update({backend: timeout}))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    start_processes("pytorch", RuntimeOptions(timeout=100))
    assert limits == {"gloo": timedelta(seconds=100), "nccl": timedelta(seconds=160)}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("MASTER_PORT", "in use", r"can't meet at 127\.0\.0\.1:\d+: .*(EADDRINUSE|address already in use)"),
        ("MASTER_PORT", None, r"can't meet at 127\.0\.0\.1:\(MASTER_PORT is not set\): .*expected, but not set"),
        ("GLOO_SOCKET_IFNAME", "eth9", r"can't meet at 127\.0\.0\.1:0: .*eth9.*GLOO_SOCKET_IFNAME"),
    ],
)
def test_processes_that_cannot_meet_say_why(
    name: str, value: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for key, text in given.items():
        monkeypatch.setenv(key, text)
    with socket.create_server(("", 0)) as taken:
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, str(taken.getsockname()[1]) if value == "in use" else value)
        with pytest.raises(UserError, match=reason) as raised:
            start_processes("pytorch", RuntimeOptions(device="cpu"))
    assert "\n" not in str(raised.value)
    assert not dist.is_initialized()
