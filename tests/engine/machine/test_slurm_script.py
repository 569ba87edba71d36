"""docs/slurm.sh in a world where srun runs one task here and scontrol notes what it is asked: what is requeued, and goes on."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[3]
SCRIPT = PROJECT / "docs" / "slurm.sh"
SRUN = 'while [[ $1 == --* ]]; do shift; done; exec "$@"'
SCONTROL = 'if [[ $1 == show ]]; then echo 127.0.0.1; else echo "$*" >> requeued; fi'


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts the script with a program in the place of its python."""
    jobs = []

    def call(python: str, grace: int = 100) -> subprocess.Popen:
        (tmp_path / "bin").mkdir(exist_ok=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", python)):
            (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        number = str(os.getpid())
        slurm = {"PROCID": "0", "LOCALID": "0", "NTASKS": "1", "JOB_ID": number, "STEP_NODELIST": "here"}
        given = {f"SLURM_{name}": value for name, value in slurm.items()}
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        job = subprocess.Popen(
            ["bash", str(SCRIPT)],
            cwd=tmp_path,
            env={**os.environ, **given, "PATH": path, "GRACE": str(grace), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        jobs.append(job)
        return job

    yield call
    for job in jobs:  # as Slurm ends all that a job has started
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def test_the_script_is_bash_and_names_a_tool_and_a_recipe() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    text = SCRIPT.read_text(encoding="utf-8")
    assert "--launcher slurm --resume auto" in text
    for name in re.findall(r"tools/\w+\.py", text):
        assert (PROJECT / name).is_file()
    for name in re.findall(r"\w+\.yaml", text):
        assert (PROJECT / "configs" / name).is_file()


@pytest.mark.parametrize(
    ("does", "asked", "status", "again"),
    [
        ("trap 'exit 75' USR1; echo up; while :; do sleep 0.1; done", True, 75, True),
        ("trap 'exit 143' USR1; echo up; while :; do sleep 0.1; done", True, 143, True),  # srun ended what was ending
        ("trap '' USR1; echo up; while :; do sleep 0.1; done", True, 137, True),  # it took too long
        ("trap 'exit 0' USR1; echo up; while :; do sleep 0.1; done", True, 0, False),  # it was at its end
        ("echo up; exit 75", False, 75, True),
        ("echo up; exit 2", False, 2, False),
        ("echo up; exit 0", False, 0, False),
    ],
)
def test_a_run_that_made_room_is_requeued_and_no_other(
    does: str, asked: bool, status: int, again: bool, submit: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    job = submit(does, grace=2 if status == 137 else 100)
    assert job.stdout.readline() == "up\n"
    if asked:
        job.send_signal(signal.SIGUSR1)
    assert job.wait(100) == status
    requeued = tmp_path / "requeued"
    assert requeued.is_file() == again
    assert not again or requeued.read_text() == f"requeue {os.getpid()}\n"


def test_a_real_run_is_requeued_and_its_next_start_ends_it(
    submit: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "pictures" / "a.png")
    options = (
        "data.root=pictures data.batch_size=1 data.workers=1 model.size=tiny model.img_size=32 model.decoder_depth=1 "
        "model.decoder_dim=32 model.decoder_heads=2 schedule.steps=12 runtime.log_every=1 runtime.device=cpu "
        "runtime.precision=fp32"
    )
    python = f'exec {sys.executable} -m convmae.tools.pretrain "${{@:2}}" {options}'
    job, said = submit(python), []
    for line in job.stdout:
        said.append(line)
        if line.startswith("step 2/12"):
            job.send_signal(signal.SIGTERM)  # as where a job of more weight takes its place
            break
    said.append(job.stdout.read())
    assert job.wait(100) == 75, said
    assert (tmp_path / "requeued").read_text() == f"requeue {os.getpid()}\n"
    again = submit(python)
    text, _ = again.communicate(timeout=500)
    assert again.returncode == 0, text
    assert re.search(r"continues from step_\d+\.pth", text)
    assert (tmp_path / "work_dirs" / "pretrain" / "encoder.pth").is_file()
    assert (tmp_path / "requeued").read_text().count("\n") == 1
