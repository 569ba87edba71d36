"""What of a machine a run may use: a process's cores, and the node's memory."""

from __future__ import annotations

import os
import socket
from collections import Counter
from pathlib import Path

from convmae.engine.machine.processes import from_all

_OWN_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # Linux's control groups, version 2
_MEMORY, _SHARED = Path("/proc/meminfo"), Path("/dev/shm")


def own_cores() -> int:
    """Returns how many cores are this process's; all processes of a run ask together.

    Those that others of the run on this node may run on, too, are divided among them; a container's quota holds.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    sharing = Counter(core for others in from_here(cores) for core in others)
    part = sum(1 / sharing[core] for core in cores)
    quotas = [(folder / "cpu.max").read_text().split() for folder in _groups("cpu.max")]
    limits = [int(used) / int(period) / max(sharing.values()) for used, period in quotas if used != "max"]
    return max(1, int(min([part, *limits]) + 0.5))


def from_here(value: object) -> list:
    """Returns the ``value`` of every process of the run on this node; all processes of a run call it together."""
    here = socket.gethostname()
    return [theirs for host, theirs in from_all((here, value)) if host == here]


def free_memory() -> int:
    """Returns the bytes that can still be shared by processes here: of the machine's memory, the container's and /dev/shm."""
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if _MEMORY.is_file():
        free.append(1024 * _table(_MEMORY)["MemAvailable"])
    if _SHARED.is_dir():
        room = os.statvfs(_SHARED)
        free.append(room.f_bavail * room.f_frsize)
    for folder in _groups("memory.max"):
        most = (folder / "memory.max").read_text().strip()
        if most != "max":
            kept = _table(folder / "memory.stat")
            reclaimed = kept["active_file"] + kept["inactive_file"]  # what the system keeps of files goes first
            free.append(int(most) - int((folder / "memory.current").read_text()) + reclaimed)
    return max(0, min(free))


def _groups(name: str) -> list[Path]:
    """Returns this process's control group and those around it, of which each that has a file of that name."""
    lines = _OWN_GROUP.read_text().splitlines() if _OWN_GROUP.is_file() else []
    own = [_GROUPS / line.removeprefix("0::/") for line in lines if line.startswith("0::")]
    return [folder for one in own for folder in (one, *one.parents) if (folder / name).is_file()]


def _table(path: Path) -> dict[str, int]:
    """Returns the numbers of a file of lines such as ``MemTotal: 1 kB``."""
    return {name.rstrip(":"): int(value) for name, value, *_ in map(str.split, path.read_text().splitlines())}
