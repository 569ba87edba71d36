"""What ends a run and is no defect becomes one message, which says what to change."""

import gc
import json
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from convmae.engine.errors import UserError
from convmae.engine.machine.failures import EndedElsewhereError, explain, tell


class Large(Dataset):
    """Samples of which each asks for more memory than there is, one way or another."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> object:
        if self.way == "python":
            raise MemoryError
        if self.way == "numpy":
            return np.ones(1 << 58, np.uint8)
        if self.way == "torch":
            return torch.empty(1 << 58, dtype=torch.uint8)
        raise OSError(5, "Input/output error", "a.png")


@pytest.fixture(autouse=True)
def _no_loader_process_stays() -> Iterator[None]:
    yield
    gc.collect()  # what was raised and the frames it came through
    assert active_children() == []


def error_of(way: str, workers: int) -> Exception:
    with pytest.raises(Exception) as raised:
        list(DataLoader(Large(way), num_workers=workers))
    return raised.value


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("way", ["python", "numpy", "torch"])
def test_memory_that_ends_is_a_message_with_what_helps(way: str, workers: int) -> None:
    message = explain(error_of(way, workers))
    assert message is not None
    assert message.startswith("Memory ended" + " in a loader process" * workers)
    assert "data.workers" in message
    assert "--resume" in message
    assert "\n" not in message


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fails_is_a_message(workers: int) -> None:
    message = explain(error_of("disk", workers))
    assert message is not None
    assert "Input/output error" in message
    assert message.endswith("See to the disk; a training run goes on with --resume.")
    assert "\n" not in message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:3: Connection reset by peer"
        ),
        torch.distributed.DistNetworkError("Connection closed by remote peer"),
        EndedElsewhereError(),
    ],
)
def test_what_only_says_that_another_process_ended_points_to_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("convmae.engine.machine.failures.time.sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert tell(error)
    said = capsys.readouterr().err
    reason = f" ({error})" if str(error) else ""
    assert said == (
        f"error in process 1: Ended, because another process did or no longer answers; its message says why{reason}.\n"
    )
    assert waited  # so that the one that failed speaks first


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), FileNotFoundError(2, "No such file"), RuntimeError("shape")])
def test_defects_keep_their_traceback(error: Exception, capsys: pytest.CaptureFixture) -> None:
    assert explain(error) is None
    assert not tell(error)
    assert capsys.readouterr().err == ""


def test_torchrun_is_told_the_reason_and_of_which_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert tell(UserError("a.png is no picture"))
    assert capsys.readouterr().err == "error in process 3: a.png is no picture\n"
    failure = ProcessFailure(local_rank=3, pid=1, exitcode=2, error_file=str(tmp_path / "error.json"))
    assert failure.message["message"] == "a.png is no picture"
    assert "traceback : a.png is no picture" in str(ChildFailedError("pretrain", {3: failure}))
    assert not tell(ZeroDivisionError("x"))  # its traceback follows
    assert capsys.readouterr().err == "error in process 3: ZeroDivisionError: x\n"
    assert json.loads((tmp_path / "error.json").read_text())["message"]["message"] == "ZeroDivisionError: x"


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] "


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(GLOO + "op.preamble.length <= op.nbytes. 8 vs 4"),  # collectives that don't match
        torch.distributed.DistBackendError("NCCL error: invalid usage (run with NCCL_DEBUG=WARN for details)"),
        torch.distributed.DistNetworkError("The server socket has failed to listen: EADDRINUSE"),
        RuntimeError("Timed out"),
        RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),  # Triton's
    ],
)
def test_what_is_no_other_processs_end_nor_full_memory_keeps_its_traceback(error: Exception) -> None:
    assert explain(error) is None


def test_all_that_is_said_of_another_process_is_told_but_for_the_frames() -> None:
    said = "NCCL error: remote process exited or there was a network error\nLast error:\nConnection closed by peer"
    message = explain(
        torch.distributed.DistBackendError(f"{said}\nException raised from recv at f.cpp:12:\nframe #0: g")
    )
    assert str(message).endswith(f"its message says why ({' '.join(said.split())}).")


@pytest.mark.parametrize(
    "said",
    [
        "unable to write to file </torch_12_3>: No space left on device (28)",
        "unable to mmap 4096 bytes from shared memory: Cannot allocate memory (12)",
        "NCCL error: unhandled system error\nLast error:\nError while creating shared memory segment /dev/shm/nccl-Xy1 "
        "(size 9637888), error: No space left on device (28)",
    ],
)
def test_shared_memory_that_ends_is_a_message(said: str) -> None:
    assert "docker: --shm-size" in str(explain(RuntimeError(said)))


@pytest.mark.parametrize(
    "said",
    ["Too many open files. Communication with the workers is no longer possible.", "received 0 items of ancdata"],
)
def test_file_handles_that_end_in_loading_are_a_message(said: str) -> None:
    assert explain(RuntimeError(said)) == (
        "Loading failed: Too many open files. Raise the limit on open files (ulimit -n) or take fewer data.workers; "
        "a training run goes on with --resume."
    )
