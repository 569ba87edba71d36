"""Cores and memory as a process's affinity, its neighbours, containers and the machine leave them."""

import os
from pathlib import Path

import pytest
import torch

from convmae.engine.machine import allowance, loading
from convmae.engine.machine.allowance import free_memory, own_cores
from convmae.engine.machine.loading import count_workers
from convmae.engine.options import DataOptions

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control groups of a process in job/step, with no limits."""
    (tmp_path / "groups" / "job" / "step").mkdir(parents=True)
    (tmp_path / "own").write_text("1:cpu:/elsewhere\n0::/job/step\n")
    monkeypatch.setattr(allowance, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(allowance, "_GROUPS", tmp_path / "groups")
    return tmp_path / "groups"


def run_on(monkeypatch: pytest.MonkeyPatch, own: set[int], *others: tuple[str, set[int]]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: own, raising=False)
    monkeypatch.setattr(allowance.socket, "gethostname", lambda: "here")
    monkeypatch.setattr(
        allowance, "from_all", lambda value: [value, *((host, sorted(cores)) for host, cores in others)]
    )


@pytest.mark.parametrize(
    ("own", "others", "quota", "cores"),
    [
        (range(8), [], "", 8),
        (range(8), [("here", range(8))] * 3, "", 2),
        (range(8), [("there", range(8))] * 3, "", 8),
        (range(4), [("here", range(4, 8))], "", 4),  # bound to cores of their own
        (range(8), [("here", range(4, 8))], "", 6),
        (range(1), [("here", range(1))], "", 1),
        (range(8), [], "max 100000", 8),
        (range(8), [], "250000 100000", 3),
        (range(8), [("here", range(8))], "200000 100000", 1),
    ],
)
def test_cores_are_divided_among_those_that_share_them(
    own: range, others: list, quota: str, cores: int, groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_on(monkeypatch, set(own), *others)
    if quota:
        (groups / "job" / "cpu.max").write_text(f"{quota}\n")
    assert own_cores() == cores


@pytest.mark.parametrize(
    ("workers", "device", "cores", "expected"),
    [
        ("auto", "cuda", 12, 11), ("auto", "cuda", 64, 16), ("auto", "cuda", 1, 0), ("auto", "cpu", 1, 0),
        ("auto", "cpu", 2, 0), ("auto", "cpu", 4, 1), ("auto", "cpu", 32, 8), (5, "cpu", 2, 5), (0, "cuda", 12, 0),
    ],
)  # fmt: skip
def test_auto_follows_from_cores_and_device(
    workers: int | str, device: str, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "own_cores", lambda: cores)
    assert count_workers(DataOptions(workers=workers), torch.device(device)) == expected


def test_memory_is_the_least_that_any_limit_leaves(
    groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:  {GIB // 1024} kB\nHugePages_Total:       0\n")
    monkeypatch.setattr(allowance, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(allowance, "_SHARED", tmp_path)
    assert free_memory() == min(GIB, os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize)
    job = groups / "job"
    (job / "memory.current").write_text(f"{GIB}\n")
    (job / "memory.stat").write_text(f"anon 7\nactive_file {GIB // 8}\ninactive_file {GIB // 8}\n")
    (job / "memory.max").write_text("max\n")
    assert free_memory() > GIB // 2
    (job / "memory.max").write_text(f"{5 * GIB // 4}\n")
    assert free_memory() == GIB // 2
    (job / "memory.max").write_text(f"{GIB // 2}\n")
    assert free_memory() == 0
