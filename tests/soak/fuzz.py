"""Runs the scripts fuzz_*.py of the tests for a time, dealt evenly among them, each batch in a process with limits.

python tests/soak/fuzz.py --minutes 60 --seed 0: a line of JSON for each batch, then a table and the figures. A script takes
COUNT SEED and prints, last, how many inputs met which fate and the memory at most: {'read': 12, 'refused': 88} 310 MB. A batch
that ends otherwise (traceback, signal, time limit) is a fault; what it printed, the command that repeats it and the files it
left are kept. The exit status is 1 if there was one.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from figures import write_figures

TESTS = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "weights": "backbones/weights/fuzz_weights.py",
    "what takes weights": "tools/fuzz_doors.py",
    "recipes": "engine/fuzz_recipes.py",
    "coco files": "detection/data/fuzz_coco.py",
    "label maps": "segmentation/data/fuzz_label_maps.py",
    "pictures": "engine/pictures/fuzz_pictures.py",
}
BATCH = 45.0  # seconds that a batch is meant to take
SLOWEST = 600.0  # seconds after which it is ended
ADDRESSES = 16 * 2**30  # bytes of address space; the libraries alone take a few GiB
MOST_FAULTS = 10  # of a kind, after which it is left
FIRST = 100  # inputs of a first batch, from which the size of the next follows


@dataclass
class Tally:
    """What came of a script so far."""

    inputs: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    peak_mb: int = 0
    seconds: float = 0.0
    count: int = FIRST  # inputs of the next batch


def run_batch(script: Path, count: int, seed: int, folder: Path) -> tuple[str, str]:
    """Runs a script and returns its last line and what is wrong, which is empty if nothing is."""
    folder.mkdir(parents=True)
    words = [sys.executable, str(script), str(count), str(seed)]
    with open(folder / "output.txt", "w", encoding="utf-8") as output:
        print(" ".join(words), file=output, flush=True)
        try:
            done = subprocess.run(
                words,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                errors="replace",
                timeout=SLOWEST,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES)),
            )
        except subprocess.TimeoutExpired:
            return "", f"took longer than {SLOWEST:g} s"
    if done.returncode:
        return "", f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
    return done.stdout.rstrip().rpartition("\n")[2], ""


def add_batch(tally: Tally, last: str) -> None:
    """Adds what a batch printed last."""
    fates, _, memory = last.rpartition("} ")
    tally.fates.update(ast.literal_eval(fates + "}"))
    tally.inputs = tally.fates.total()
    tally.peak_mb = max(tally.peak_mb, int(memory.split()[0]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="for all together (default 60)")
    parser.add_argument("--kinds", nargs="+", choices=list(SCRIPTS), default=list(SCRIPTS), help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch (default 0)")
    parser.add_argument("--faults", type=Path, default=Path("soak_faults"), help="folder of what fails")
    parser.add_argument("--output", type=Path, help="JSON file of figures")
    args = parser.parse_args()
    if missing := [SCRIPTS[kind] for kind in args.kinds if not (TESTS / SCRIPTS[kind]).is_file()]:
        parser.error(f"{', '.join(missing)}: no such file in {TESTS}")
    tallies = {kind: Tally() for kind in args.kinds}
    began, number = time.monotonic(), args.seed
    while time.monotonic() - began < 60 * args.minutes:
        going_on = [name for name, tally in tallies.items() if len(tally.faults) < MOST_FAULTS]
        if not going_on:
            break
        kind = min(going_on, key=lambda name: tallies[name].seconds)
        tally, folder = tallies[kind], args.faults.resolve() / f"{kind.replace(' ', '_')}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        since = time.monotonic()
        last, wrong = run_batch(TESTS / SCRIPTS[kind], tally.count, number, folder)
        took = time.monotonic() - since
        if wrong:
            tally.faults.append(f"{wrong}; kept in {folder}")
        else:
            add_batch(tally, last)
            shutil.rmtree(folder)
            tally.count = max(FIRST, round(tally.count * min(4.0, BATCH / took)))
        print(
            json.dumps({"kind": kind, "seed": number, "seconds": round(took, 1), "fates": last, "fault": wrong}),
            flush=True,
        )
        tally.seconds += took
        number += 1
    if args.faults.is_dir() and not any(args.faults.iterdir()):
        args.faults.rmdir()
    print(f"{'':20}{'inputs':>10}{'faults':>8}{'peak MB':>9}{'seconds':>9}  fates")
    for kind, tally in tallies.items():
        fates = ", ".join(f"{count} {fate}" for fate, count in tally.fates.items())
        print(f"{kind:20}{tally.inputs:10}{len(tally.faults):8}{tally.peak_mb:9}{tally.seconds:9.0f}  {fates}")
    faults = sum(len(tally.faults) for tally in tallies.values())
    kinds = {
        kind: {"inputs": tally.inputs, "fates": tally.fates, "faults": tally.faults, "peak_mb": tally.peak_mb}
        for kind, tally in tallies.items()
    }
    inputs = sum(tally.inputs for tally in tallies.values())
    write_figures(args.output, "fuzz", {"minutes": args.minutes, "inputs": inputs, "faults": faults, **kinds})
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
