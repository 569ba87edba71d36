"""Loader processes that hang, die or are left behind: one message in time, and none of them stays."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from convmae.engine.errors import UserError
from convmae.engine.loading import Loader, LoadingError, _epitaph, _limited, load
from convmae.engine.options import DataOptions

LEFT = """
import multiprocessing, os, signal
import torch
from convmae.engine.loading import LoadingError, load
from convmae.engine.options import DataOptions

def stopped():
    batches = iter(load(torch.arange(1000), DataOptions(workers=2, timeout=0.5), torch.device("cpu"), batch_size=1))
    next(batches)
    for worker in multiprocessing.active_children():
        print(worker.pid)
        os.kill(worker.pid, signal.SIGSTOP)
    return batches

try:
    list(stopped())
except LoadingError as error:
    print(error)
batches = stopped()
"""


class Samples(Dataset):
    """Forty numbers; for some of them their process does what ``ways`` says."""

    def __init__(self, ways: dict[int, str] | None = None) -> None:
        self.ways = ways or {}

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        way = self.ways.get(index)
        if way == "sleeps":
            time.sleep(60)
        elif way == "exits":
            os._exit(3)
        elif way == "refuses":
            raise UserError("broken.jpg can't be read.")
        elif way:
            os.kill(os.getpid(), signal.Signals[way])
        return torch.tensor(index)


@pytest.fixture
def loader() -> Iterator[Callable[..., Loader]]:
    """Makes a loader of two processes over ``Samples``; what it leaves behind fails the test."""

    def make(ways: dict[int, str] | None = None, timeout: float = 20.0) -> Loader:
        return load(Samples(ways), DataOptions(workers=2, timeout=timeout), torch.device("cpu"), batch_size=2)

    yield make
    assert active_children() == []


@pytest.mark.parametrize("way", ["sleeps", "SIGSTOP"])
def test_processes_that_give_no_batch_in_time_are_told_and_ended(way: str, loader: Callable[..., Loader]) -> None:
    began = time.monotonic()
    with pytest.raises(LoadingError, match=r"no batch for 0\.3 s \(data\.timeout\).*See that the data can be read"):
        list(loader({10: way}, timeout=0.3))
    assert time.monotonic() - began < 3
    assert active_children() == []


def test_a_stopped_process_that_has_a_batch_ready_hangs_nothing(loader: Callable[..., Loader]) -> None:
    batches = iter(loader(timeout=0.3))
    next(batches)
    time.sleep(0.2)  # the next ones are made, but their memory is passed on by the process itself
    for worker in active_children():
        os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(LoadingError, match="no batch for"):
        list(batches)


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("SIGKILL", r"was ended by SIGKILL, as the system does where memory ends: take fewer data\.workers"),
        ("exits", r"ended with status 3; expected it to last"),
    ],
)
def test_a_process_that_dies_is_named_with_the_reason(way: str, reason: str, loader: Callable[..., Loader]) -> None:
    with pytest.raises(LoadingError, match=rf"Loader process \d+ {reason}.*goes on with --resume"):
        list(loader({10: way}))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-signal.SIGBUS, r"ended by SIGBUS, as where shared memory \(/dev/shm\) is full"),
        (-signal.SIGSEGV, "ended by SIGSEGV, by a file that its decoder can't bear"),
        (-signal.SIGUSR1, "ended by SIGUSR1, which it does not do by itself"),
        (0, "ended with status 0; expected it to last"),
    ],
)
def test_each_end_has_its_words(code: int, reason: str) -> None:
    assert re.search(f"Loader process 12 (was )?{reason}", _epitaph(12, code))


def test_what_a_sample_refuses_comes_as_it_is(loader: Callable[..., Loader]) -> None:
    with pytest.raises(UserError, match=r"broken\.jpg") as caught:
        list(loader({10: "refuses"}))
    assert not isinstance(caught.value, LoadingError)


def test_a_death_is_told_where_the_next_batch_is_asked_for_and_not_within_a_step(loader: Callable[..., Loader]) -> None:
    batches = iter(loader())
    next(batches)
    for worker in active_children():
        worker.kill()
    for _ in range(20):  # a step
        time.sleep(0.01)
    with pytest.raises(LoadingError, match="was ended by SIGKILL"):
        list(batches)


def test_the_time_of_a_step_and_of_a_run_that_is_stopped_counts_for_nothing(loader: Callable[..., Loader]) -> None:
    batches = iter(loader(timeout=0.5))
    next(batches)
    time.sleep(0.6)
    assert len(list(batches)) == 19
    run = os.fork()
    if run == 0:
        with _limited(0.6):
            time.sleep(1.0)
        os._exit(7)
    time.sleep(0.1)
    os.kill(run, signal.SIGSTOP)
    time.sleep(0.8)
    os.kill(run, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]) == 7


def test_no_limit_and_no_processes_read_as_ever(loader: Callable[..., Loader]) -> None:
    assert torch.cat(list(loader(timeout=0.0))).tolist() == list(range(40))
    alone = load(Samples(), DataOptions(workers=0), torch.device("cpu"), batch_size=40)
    assert next(iter(alone)).tolist() == list(range(40))


def test_a_process_with_stopped_loader_processes_ends_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no batch for 0.5 s" in done.stdout
    pids = [line for line in done.stdout.split("\n") if line.isdigit()]
    assert len(pids) == 4
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
