"""Loader processes: how they start and end, and what is said of those that hang or die."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from convmae.engine.errors import UserError
from convmae.engine.machine.allowance import own_cores
from convmae.engine.machine.failures import GO_ON
from convmae.engine.options import DataOptions

MOST_WORKERS = 16  # that auto starts beside a training process: each holds batches, and more read little faster
_CORES_A_WORKER = 4  # of a CPU that computes the model, too
GRACE = 5.0  # seconds in which loader processes end by themselves once they are asked to
_TICKS = 10  # parts of the time limit
_started: set[BaseProcess] = set()  # the loader processes of this process that are not ended


class LoadingError(UserError):
    """The loader processes gave no batch: they hang, or one died."""

    passes = True


class _NoBatchInTimeError(BaseException):
    """None that PyTorch's own code catches while it waits."""


class Loader(DataLoader):
    """PyTorch's DataLoader with a time limit of ``seconds`` on a batch (0: none), which raises LoadingError.

    A loader process that dies raises it too, and where the next batch is asked for alone: PyTorch would raise in the middle
    of a step. None is left once the iterator is gone, whether it is stopped or waits for a file system that is gone.
    """

    def __init__(self, dataset: Dataset, *, seconds: float, **options: Any) -> None:
        self.seconds = seconds
        super().__init__(dataset, **options)

    def __iter__(self) -> Generator[Any]:  # type: ignore[override]
        return self._watched() if self.num_workers else (batch for batch in super().__iter__())

    def _watched(self) -> Generator[Any]:
        batches: Any = super().__iter__()
        # PyTorch's handler of SIGCHLD would raise wherever this process is.
        torch._C._remove_worker_pids(id(batches))
        batches._worker_pids_set = False
        workers = set(batches._workers)
        _started.update(workers)
        with _heard(getattr(batches, "_pin_memory_thread", None)) as unheard:
            try:
                while True:
                    try:
                        batch = self._next(batches, workers)
                    except StopIteration:
                        return
                    except RuntimeError:
                        if unheard:
                            raise unheard[0] from None
                        raise
                    yield batch
            finally:
                late = threading.Timer(GRACE, _kill, [workers])
                if any(worker.is_alive() for worker in workers & _started):  # none is at the interpreter's exit
                    late.start()  # which no thread may do then
                batches._shutdown_workers()  # asks them to end, and waits for each
                late.cancel()
                _kill(workers)

    def _next(self, batches: Iterator[Any], workers: Iterable[BaseProcess]) -> Any:
        """Returns the next batch. Raises LoadingError where the processes give none, and what a sample raises."""
        try:
            with _limited(self.seconds):
                return next(batches)
        except (Exception, _NoBatchInTimeError) as error:
            told = self._tell(error, workers)
            if told is None:
                raise
        _kill(workers)  # one that is stopped hears nothing else
        raise told

    def _tell(self, error: BaseException, workers: Iterable[BaseProcess]) -> LoadingError | None:
        """Returns what an error says of the loader processes, or None if it is one that reading a sample raised."""
        if isinstance(error, _NoBatchInTimeError):
            return LoadingError(
                f"The loader processes gave no batch for {self.seconds:g} s (data.timeout): they were stopped, or wait for a "
                "file system that does not answer. See that the data can be read; if reading is only slow, raise "
                f"data.timeout (0: no limit). {GO_ON}"
            )
        if isinstance(error, UserError | StopIteration):
            return None
        # A broken socket is that of a process which is about to be gone; the thread that pins memory may have met it.
        broken = isinstance(error, OSError | EOFError) or "Pin memory thread" in str(error)
        ended = wait([worker.sentinel for worker in workers], timeout=1.0 if broken else 0.0)
        gone = [worker for worker in workers if worker.sentinel in ended]
        for worker in gone:
            worker.join(GRACE)  # its files are closed before its status is known
        return LoadingError(_epitaph(gone[0].pid, gone[0].exitcode)) if gone else None


def load(dataset: Dataset, data: DataOptions, device: torch.device, *, parts: int = 1, **options: Any) -> Loader:
    """Returns the loader of a data set in as many processes, and with the time limit, as the options say.

    ``parts`` are the batches that are read at once: as many are made while what was read is computed. All processes of a run
    call it together.
    """
    if workers := count_workers(data, device):
        ahead = max(2, -(-parts // workers))
        options |= {"num_workers": workers, "worker_init_fn": _start_worker, "prefetch_factor": ahead}
    return Loader(dataset, seconds=data.timeout, pin_memory=device.type == "cuda", **options)


def count_workers(data: DataOptions, device: torch.device) -> int:
    """Returns how many loader processes the options ask for; all processes of a run ask together.

    ``auto`` on a GPU: as many as this process has cores but the one that it runs on. On a CPU, whose cores the model takes, one
    for every four, and so none on a laptop's two, where none is as fast as one or two (docs/results.md, Fed).
    """
    if isinstance(data.workers, int):
        return data.workers
    cores = own_cores()
    return min(MOST_WORKERS, cores - 1 if device.type == "cuda" else cores // _CORES_A_WORKER)


def _epitaph(pid: int | None, code: int | None) -> str:
    """Returns what is said of a process that ended with an exit code, a signal's number with a minus as in multiprocessing."""
    reasons = {
        signal.SIGKILL: "as the system does where memory ends: take fewer data.workers, or ask for more memory",
        signal.SIGBUS: "as where shared memory (/dev/shm) is full: enlarge it (docker: --shm-size) or take fewer data.workers",
        signal.SIGSEGV: "by a file that its decoder can't bear, perhaps: data.workers=0 tells where",
    }
    if code is None or code >= 0:
        return (
            f"Loader process {pid} ended with status {code}; expected it to last. data.workers=0 tells where. {GO_ON}"
        )
    reason = reasons.get(signal.Signals(-code), "which it does not do by itself")
    return f"Loader process {pid} was ended by {signal.Signals(-code).name}, {reason}. {GO_ON}"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises _NoBatchInTimeError in its block after so many seconds in which this process ran; 0 is no limit.

    By an alarm, as the wait may be for what PyTorch sets no limit to: the socket by which a stopped process passes its
    memory. In parts, of which one alone passes while the whole run is stopped (Ctrl-Z).
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGALRM)
    if not seconds or not main or before is None:  # None: a C library's, which can't be put back
        yield
        return
    left = _TICKS

    def tick(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left <= 0:  # again, should the first be lost in what Python calls back
            raise _NoBatchInTimeError

    signal.signal(signal.SIGALRM, tick)
    due, every = signal.setitimer(signal.ITIMER_REAL, seconds / _TICKS, seconds / _TICKS)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if due:  # an alarm of the caller's own
            signal.setitimer(signal.ITIMER_REAL, max(due - (time.monotonic() - began), 1e-6), every)


@contextmanager
def _heard(thread: threading.Thread | None) -> Iterator[list[BaseException]]:
    """Yields the broken connection that ends the thread which pins memory, whose traceback Python would print beside."""
    told = threading.excepthook
    unheard: list[BaseException] = []

    def hear(args: threading.ExceptHookArgs) -> None:
        if args.thread is thread and isinstance(args.exc_value, OSError | EOFError):
            unheard.append(args.exc_value)
        else:
            told(args)

    threading.excepthook = hear
    try:
        yield unheard
    finally:
        threading.excepthook = told


def _kill(workers: Iterable[BaseProcess]) -> None:
    """Ends those of the processes that this one started, stopped ones too, and waits for that."""
    own = _started.intersection(workers)
    for worker in own:
        worker.kill()
    for worker in own:
        worker.join(GRACE)
    _started.difference_update(own)


def _start_worker(number: int) -> None:
    """Leaves signals to the training process, which stops after its step; a worker that died of one would end the run at once.

    Ctrl-C in a terminal, torchrun and Slurm signal all processes of a group.
    """
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(one, signal.SIG_IGN)
    torch.set_num_threads(1)


# At the interpreter's exit multiprocessing would send those that are left SIGTERM, and wait for ever. A fork has none.
atexit.register(lambda: _kill(_started))
os.register_at_fork(after_in_child=_started.clear)
