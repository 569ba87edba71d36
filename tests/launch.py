"""Runs a tool in two processes, as torchrun does."""

import os
import subprocess
import sys
from pathlib import Path


def two_processes(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs ``-m convmae.tools.pretrain ...`` or a script with its options on the CPU and returns what came of it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*torchrun, *command, "--launcher", "pytorch"],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
