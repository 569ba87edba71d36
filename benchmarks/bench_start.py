"""Measure what each tool's --help takes, and what a run has to read first: processor time and most memory of a process.

Tools take turns, so that a busy machine hits all alike. The first rows are Python alone, and the imports that cost most; the
last, "to run", are what a tool imports once its options are right.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from convmae.engine.errors import UserError

TOOLS = sorted(
    Path(entry.name).stem
    for entry in resources.files("convmae.tools").iterdir()
    if entry.name.endswith(".py") and entry.name not in ("__init__.py", "cli.py", "starting.py")
)
# From a small process: the system counts the memory of the one that starts a program to the program's own.
MEASURE = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]))
process.returncode = os.waitstatus_to_exitcode(status)
sys.exit(process.returncode != 0)
"""
COMPARED = {"python": "pass", "numpy": "import numpy", "torch": "import torch"}
READS = {
    **{
        name: f"from convmae.tools.{name} import read; read()"
        for name in ("pretrain", "finetune", "train_det", "train_seg", "linear_probe")
    },
    "predict": "import convmae.models",
}


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each tool, medians over the rounds. Raises UserError for a tool whose --help fails."""
    commands = {name: ["-c", code] for name, code in COMPARED.items()}
    commands |= {name: ["-m", f"convmae.tools.{name}", "--help"] for name in args.tools}
    commands |= {f"{name}, to run": ["-c", code] for name, code in READS.items() if name in args.tools}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(args.repeats):
        for name, command in commands.items():
            measured[name].append(spent([sys.executable, *command]))
    return [
        {
            "what": name,
            "processor seconds": statistics.median(seconds for seconds, _ in rounds),
            "MiB": statistics.median(memory for _, memory in rounds),
        }
        for name, rounds in measured.items()
    ]


def spent(command: list[str]) -> tuple[float, float]:
    """Returns processor time in seconds and most memory in MiB of a command. Raises UserError where it fails."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    seconds, memory = json.loads(done.stdout)
    return seconds, memory / 1024
