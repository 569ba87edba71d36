"""Several processes as one run: how they start, and what they tell each other beside gradients."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from itertools import chain
from typing import Any, cast

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed, is_main_process

from convmae.engine.errors import UserError
from convmae.engine.machine.failures import without_frames
from convmae.engine.machine.precision import resolve_device
from convmae.engine.options import RuntimeOptions

# How much longer GPUs wait for one another than their hosts, which end with a message: NCCL's watchdog aborts a process.
WATCHDOG = timedelta(minutes=1)
NEEDED = {  # in the environment, by launcher
    "pytorch": ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_STEP_NODELIST"),
}
# The group for messages between CPUs, so that no GPU has to wait for them; None: the one of all, which is of CPUs itself.
_hosts: dist.ProcessGroup | None = None


def start_processes(launcher: str, runtime: RuntimeOptions) -> None:
    """Joins the processes that torchrun or Slurm started; ``none`` is one process. Raises UserError where they can't meet.

    From then on none waits for the others longer than ``runtime.timeout``.
    """
    global _hosts
    if launcher == "none":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("Several processes were started (WORLD_SIZE is set): add --launcher pytorch.")
        return
    missing = [name for name in NEEDED[launcher] if name not in os.environ]
    if missing:
        start = "torchrun --nproc_per_node=N" if launcher == "pytorch" else "srun"
        raise UserError(
            f"--launcher {launcher} needs {', '.join(missing)} in the environment: start the tool by `{start}`."
        )
    if launcher == "slurm":
        for name, value in _from_slurm().items():
            os.environ.setdefault(name, value)
    cuda = resolve_device(runtime.device).type == "cuda"
    if cuda:  # a task that was given GPUs of its own sees these alone
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        limit = timedelta(seconds=runtime.timeout)
        store, rank, world = next(dist.rendezvous("env://", timeout=limit))
        # Torchrun keeps the store when it starts all again: what was left there leads to processes that are gone.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        if cuda:
            dist.init_process_group("nccl", store=store, rank=rank, world_size=world, timeout=limit + WATCHDOG)
            _hosts = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=limit))  # all are in it
        else:
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    except (RuntimeError, ValueError) as error:
        place = ":".join(os.environ.get(name, f"({name} is not set)") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise UserError(
            f"The processes can't meet at {place}: {without_frames(error)}. Expected the first node's address and a port that "
            "is free there (MASTER_ADDR, MASTER_PORT), and the name of a network interface, where one is set "
            "(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)."
        ) from None


def any_process(*flags: bool) -> list[bool]:
    """Returns whether each flag is set on any process; all of them have to ask, and all get the same answer."""
    if not is_distributed():
        return list(flags)
    told = torch.tensor(flags, dtype=torch.int)
    dist.all_reduce(told, dist.ReduceOp.MAX, group=_hosts)
    return told.bool().tolist()


def gather_samples(part: list[Any], size: int) -> list[Any]:
    """Returns on the first process what all processes have of ``size`` samples, in order; elsewhere an empty list.

    Sample i is the (i // processes)-th of process i % processes, as mmengine's DefaultSampler deals them; what it added so that
    all have as many is left out.
    """
    if not is_distributed():
        return part[:size]
    parts: list[list[Any]] | None = [[] for _ in range(dist.get_world_size())] if is_main_process() else None
    dist.gather_object(part, parts, group=_hosts)
    return list(chain.from_iterable(zip(*parts, strict=True)))[:size] if parts else []


def from_all(value: Any) -> list[Any]:
    """Returns every process's ``value`` on every process, in their order."""
    if not is_distributed():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_hosts)
    return values


def tell_all(value: Any) -> Any:
    """Returns the first process's ``value`` on every process."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, group=_hosts)
    return box[0]


def world_mean(*counts: float, device: torch.device) -> torch.Tensor:
    """Returns counts [n] averaged over processes, on ``device``.

    Gradients are averaged over processes too, so that a sum divided by such a mean has the gradient of the whole batch.
    """
    # Filled there: a list would be copied to a GPU, and the host would wait for that.
    values = torch.stack([torch.full((), count, dtype=torch.float32, device=device) for count in counts])
    if is_distributed():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def _from_slurm() -> dict[str, str]:
    """Returns what torchrun would set, from Slurm's account of the job step; the first of its nodes is where all meet."""
    given = os.environ
    return {
        "RANK": given["SLURM_PROCID"],
        "LOCAL_RANK": given["SLURM_LOCALID"],
        "WORLD_SIZE": given["SLURM_NTASKS"],
        "MASTER_ADDR": given.get("MASTER_ADDR") or _first_host(given["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(20_000 + int(given["SLURM_JOB_ID"]) % 10_000),  # other jobs on the node have another
    }


def _first_host(nodes: str) -> str:
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"Slurm's scontrol can't tell the hosts of {nodes} ({error}); set MASTER_ADDR to the first one's name."
        ) from None
    return listed.stdout.split()[0]
