"""Loader processes that hang, die or are left behind: one message in time, and none of them stays."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Process, active_children
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from convmae.engine.errors import UserError
from convmae.engine.machine import loading
from convmae.engine.machine.loading import Loader, LoadingError, _epitaph, _heard, _limited, load
from convmae.engine.options import DataOptions

LEFT = """
import multiprocessing, os, signal
import torch
from convmae.engine.machine.loading import LoadingError, load
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

BESIDE = """
import multiprocessing
import torch
from convmae.engine.machine.loading import load
from convmae.engine.options import DataOptions

pool = multiprocessing.Pool(1)
print(len(list(load(torch.arange(2), DataOptions(workers=1), torch.device("cpu")))), pool.map(abs, [-3]))
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
    assert time.monotonic() - began < 30  # of the 60 that the sample would take
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


def test_a_program_with_processes_of_its_own_ends_after_it_has_read() -> None:
    done = subprocess.run([sys.executable, "-c", BESIDE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 [3]\n", "")


def test_a_process_that_another_thread_starts_meanwhile_is_left_alone(
    loader: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, plain = Process(target=time.sleep, args=(60,), daemon=True), DataLoader.__iter__
    monkeypatch.setattr(DataLoader, "__iter__", lambda self: (other.start(), plain(self))[1])
    list(loader())
    assert other.is_alive()
    other.kill()
    other.join()


def test_a_fork_ends_no_process_of_the_one_it_comes_from(loader: Callable[..., Loader]) -> None:
    batches = iter(loader())
    next(batches)
    fork = os.fork()
    if fork == 0:
        loading._kill(loading._started)  # as at its exit
        os._exit(0)
    os.waitpid(fork, 0)
    assert all(worker.is_alive() for worker in active_children())
    assert len(list(batches)) == 19


def test_a_plain_loaders_worker_that_dies_is_still_pytorchs_to_tell(loader: Callable[..., Loader]) -> None:
    list(loader())
    batches = iter(DataLoader(Samples(), num_workers=1))
    (worker,) = active_children()
    worker.kill()
    with pytest.raises(RuntimeError, match="is killed by signal"):
        time.sleep(5)
    del batches


def test_the_callers_own_alarm_comes_when_it_is_due() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: came.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 50)
        with _limited(10):
            time.sleep(0.1)
        assert not came
        left, every = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left <= 0.1
        assert every == 50
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with _limited(10):
            time.sleep(0.05)
        time.sleep(0.01)
        assert came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_c_librarys_alarm_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "setitimer", lambda *_: pytest.fail("its alarm was moved"))
    with _limited(10):
        pass


@pytest.mark.parametrize(("workers", "ahead"), [(0, None), (1, 16), (2, 8), (3, 6), (12, 2)])
def test_a_steps_parts_are_made_while_those_before_are_computed(workers: int, ahead: int | None) -> None:
    batches = load(Samples(), DataOptions(workers=workers), torch.device("cpu"), parts=16)
    assert batches.prefetch_factor == ahead


def test_the_thread_that_pins_memory_breaks_in_silence_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> None:
        raise ConnectionResetError(104, "reset")

    pinning, other = threading.Thread(target=breaks), threading.Thread(target=breaks)
    heard: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    with _heard(pinning) as unheard:
        for thread in (pinning, other):
            thread.start()
            thread.join()
    assert [type(error) for error in unheard] == [ConnectionResetError]
    assert [args.thread for args in heard] == [other]


@pytest.mark.skipif(
    torch.__version__ < "2.9", reason="PyTorch asks CUDA, not torch.accelerator, whether it pins memory"
)
def test_where_memory_is_pinned_the_message_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    accelerator = {"is_available": True, "current_accelerator": torch.device("cpu"), "current_device_index": 0}
    for name, value in {**accelerator, "set_device_index": None}.items():
        monkeypatch.setattr(torch.accelerator, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", slow)
    data = DataOptions(workers=2, timeout=0.5)
    batches = iter(load(Samples(), data, torch.device("cuda"), batch_size=2))
    next(batches)
    assert [thread for thread in threading.enumerate() if "pin_memory" in thread.name]
    for worker in active_children():
        os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(LoadingError, match="no batch for"):
        list(batches)
    assert not told
    assert active_children() == []


def slow(batch: torch.Tensor, device: object) -> torch.Tensor:
    time.sleep(0.1)
    return batch


def test_a_thread_that_pins_memory_and_ends_waits_for_the_reason(loader: Callable[..., Loader]) -> None:
    worker = Process(target=time.sleep, args=(0.1,))
    worker.start()
    told = loader()._tell(RuntimeError("Pin memory thread exited unexpectedly"), [worker])
    assert "ended with status 0" in str(told)
