"""Runs a tool or a function in two processes."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing


def two_processes(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs ``-m convmae.tools.pretrain ...`` or a script with its options on the CPU, by torchrun; returns what came of it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*torchrun, *command, "--launcher", "pytorch"],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def forked(function: Callable[[int], Any], folder: Path, world: int = 2) -> list[Any]:
    """Calls ``function(rank)`` in forks of this process that are one group, and returns what each of them does.

    What is imported here needs no second import there, which is most of the time that torchrun takes.
    """
    torch.multiprocessing.start_processes(
        partial(_fork, function=function, folder=folder, world=world), nprocs=world, start_method="fork"
    )
    results = [folder / f"result_{rank}" for rank in range(world)]
    found = [pickle.loads(path.read_bytes()) for path in results]
    for path in results:
        path.unlink()
    return found


def _fork(rank: int, function: Callable[[int], Any], folder: Path, world: int) -> None:
    store = folder / "group"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    result = function(rank)
    dist.barrier()
    (folder / f"result_{rank}").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()
    store.unlink(missing_ok=True)
