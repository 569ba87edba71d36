"""The pack for a machine where nothing can be fetched: what is in it, its limit, and the line that runs it."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
SCRIPT = PROJECT / "tools" / "pack_gpu.sh"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two data sets of a file each, of 10 kB and 2 MB that no compression makes less."""
    for name, size in (("small", 10_000), ("large", 2_000_000)):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "file").write_bytes(os.urandom(size))
    return tmp_path / "data"


def pack(*options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *map(str, options)], capture_output=True, text=True)


def test_a_pack_holds_the_chosen_data_and_wheels(data: Path, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "some-1-py3-none-any.whl").write_bytes(b"a wheel")
    output = tmp_path / "pack"
    made = pack("--output", output, "--data", data, "--sets", "small", "--wheels", tmp_path / "wheels")
    assert made.returncode == 0, made.stderr
    assert f"bash {output}/run.sh RESULTS --budget 440 --device cuda" in made.stdout
    assert sorted(path.name for path in output.iterdir()) == ["data.tar.gz", "run.sh", "wheels"]
    assert [path.name for path in (output / "wheels").iterdir()] == ["some-1-py3-none-any.whl"]
    with tarfile.open(output / "data.tar.gz") as archive:
        assert archive.getnames() == ["small", "small/file"]
    again = pack("--output", output, "--wheels", "none")  # of a pack it makes another
    assert again.returncode == 0, again.stderr
    assert not (output / "data.tar.gz").exists()


def test_a_pack_over_the_limit_is_refused_and_says_what_is_large(data: Path, tmp_path: Path) -> None:
    made = pack("--output", tmp_path / "pack", "--data", data, "--wheels", "none", "--limit", 1)
    assert made.returncode == 2
    assert "the pack would be 1 MiB; expected at most 1. Take fewer --sets." in made.stderr
    assert "data.tar.gz 1.9" in made.stderr
    assert not list(tmp_path.glob("pack*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sets"], "--sets needs a value"),
        (["--set", "x"], "there is no option --set"),
        (["--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--wheels", "nowhere"], "--wheels nowhere: there is no such folder"),
        (["--data", ".", "--sets", "absent"], ". holds no absent"),
        (["--output", "."], "is there and is no pack"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    defaults = ["--output", str(tmp_path / "pack"), "--wheels", "none"]
    made = subprocess.run(["bash", str(SCRIPT), *defaults, *options], capture_output=True, text=True, cwd=tmp_path)
    assert made.returncode == 2
    assert message in made.stderr


def test_a_pack_holds_every_package_and_makes_them_importable(tmp_path: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    folders = {line.split("=")[1].strip() for line in setup["options"]["package_dir"].strip().splitlines()}
    assert pack("--output", tmp_path / "pack", "--wheels", "none", "--sources", "yes").returncode == 0
    with tarfile.open(tmp_path / "pack" / "sources.tar.gz") as archive:
        assert folders <= {name.partition("/")[0] for name in archive.getnames()}
    line = (tmp_path / "pack" / "run.sh").read_text()
    assert folders == {folder for folder in folders if re.search(rf"\b{folder}\b", line)}


def test_the_line_runs_the_battery_where_nothing_is_installed(tmp_path: Path) -> None:
    made = pack("--output", tmp_path / "pack", "--wheels", "none", "--sources", "yes")
    assert made.returncode == 0, made.stderr
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    run = subprocess.run(
        ["bash", "pack/run.sh", "results", "--items", "machine", "--device", "cpu", "--repeats", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert {row["case"] for row in found["rows"]} == {"versions", "ceilings"}
    assert "machine: case ceilings" in (tmp_path / "results" / "log.txt").read_text()


def test_the_packages_are_those_that_the_project_pins() -> None:
    required, _ = (PROJECT / "setup.cfg").read_text().split("[options.extras_require]")
    pinned = re.findall(r"^ +(onedl-[a-z]+) == (\S+)$", required, re.MULTILINE)
    assert len(pinned) == 3
    for name, version in pinned:
        assert f" {name}=={version} " in SCRIPT.read_text().replace("\n", " ")


def test_an_output_with_a_slash_at_its_end_is_the_same_folder(tmp_path: Path) -> None:
    for _ in range(2):
        assert pack("--output", f"{tmp_path}/pack/", "--wheels", "none").returncode == 0
        assert (tmp_path / "pack" / "run.sh").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "0.5"], "expected whole MiB"),
        (["--sources", "maybe"], "expected yes or no"),
        (["--sets", "small"], "--sets needs --data"),
        (["--output", ""], "needs a folder's name"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: list[str], said: str, tmp_path: Path) -> None:
    made = pack("--output", tmp_path / "pack", "--wheels", "none", *options)
    assert (made.returncode, said in made.stderr) == (2, True)
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "a folder for the results"),
        (["R", "--budget", "60.5"], "whole seconds"),
        (["R", "--budget", "10"], "more than 15"),
    ],
)
def test_a_run_says_what_its_options_lack(options: list[str], said: str, tmp_path: Path) -> None:
    script = PROJECT / "benchmarks" / "gpu" / "run.sh"
    made = subprocess.run(["bash", str(script), *options], capture_output=True, text=True, cwd=tmp_path)
    assert (made.returncode, said in made.stderr) == (2, True)
