"""Trains a tiny model of each task for thousands of steps, and measures whether the run's processes grow meanwhile.

python tests/soak/leaks.py --steps 5000: a line of JSON for each task, then the figures. Memory is what the training
process holds beside files, and the largest of its loader processes; shared memory is that of all. The exit status is 1 if
anything grows beyond its limit from the second fifth of the steps to the last.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

import numpy as np
from figures import write_figures
from processes import GONE, kill, marked, roles
from runs import TASKS, command, make_data, start

# What may be added over the steps that are looked at: MB for memory, else a count.
LIMITS = {"trainer_mb": 20.0, "loader_mb": 20.0, "shared_mb": 4.0, "files": 2.0, "threads": 1.0}
SAMPLES = 100
EXTRA = {
    "pretraining": ["optim.average=0.99"],
    "detection": ["model.pre_nms_train=50", "model.post_nms_train=50", "model.fpn_channels=8", "model.rpn_sampled=16"],
}


def sample(mark: str, first: int) -> dict[str, float]:
    """Returns what a run's processes hold now."""
    known = roles(mark, first)
    held = dict.fromkeys(LIMITS, 0.0)
    for role, pids in known.items():
        for pid in pids:
            with suppress(*GONE):
                folder = Path("/proc", str(pid))
                lines = (line.split() for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
                mb = {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines}
                # Not what it holds alone: a page that it shares with the training process becomes its own once it is written.
                name = "trainer_mb" if role == "rank" else "loader_mb"
                held[name] = max(held[name], mb["Anonymous"])
                held["shared_mb"] += mb["Pss_Shmem"]
                held["files"] += len(list((folder / "fd").iterdir()))
                held["threads"] += len(list((folder / "task").iterdir()))
    return held


def steps_done(work_dir: Path) -> int:
    """Returns the last step that a run's scalars tell of."""
    path = work_dir / "scalars.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def watch(run: Popen, mark: str, work_dir: Path) -> tuple[list[int], list[dict[str, float]]]:
    """Samples a run at each new line of its scalars until it ends."""
    steps: list[int] = []
    held: list[dict[str, float]] = []
    while run.poll() is None:
        time.sleep(0.05)
        now = steps_done(work_dir)
        if now and (not steps or now > steps[-1]):
            taken = sample(mark, run.pid)
            if run.poll() is None:
                steps.append(now)
                held.append(taken)
    return steps, held


def growth(steps: list[int], values: list[float], total: int) -> float:
    """Returns how far the median of the last fifth is above that of the second: evaluations make single samples jump."""
    parts = [
        [value for step, value in zip(steps, values, strict=True) if part < 5 * step / total <= part + 1]
        for part in (1, 4)
    ]
    second, last = (float(np.median(part)) for part in parts)
    return last - second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="steps of each task (default 5000)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all four")
    parser.add_argument("--output", type=Path, help="JSON file of figures")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no run is left behind
    every = max(1, args.steps // SAMPLES)
    overrides = [
        f"schedule.steps={args.steps}", f"schedule.eval_every={args.steps // 5}", f"schedule.save_every={args.steps // 5}",
        f"runtime.log_every={every}", "data.workers=2",
    ]  # fmt: skip
    figures: dict[str, dict] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="convmae-leaks-") as folder:
        data = make_data(Path(folder, "data"))
        for task in args.tasks:
            work_dir, log, since = Path(folder, task), Path(folder, f"{task}.log"), time.monotonic()
            words = command(
                task, data, work_dir, *overrides, *EXTRA.get(task, []), program=Path(__file__).with_name("small.py")
            )
            run, mark = start(words, log)
            try:
                steps, held = watch(run, mark, work_dir)
            finally:
                kill(marked(mark))
            if run.returncode:
                print(log.read_text(encoding="utf-8", errors="replace")[-2000:])
                return 1
            grown = {name: round(growth(steps, [one[name] for one in held], args.steps), 2) for name in LIMITS}
            largest = {name: round(max(one[name] for one in held), 1) for name in LIMITS}
            beyond = [name for name, limit in LIMITS.items() if grown[name] > limit]
            figures[task] = {
                "samples": len(steps), "grown": grown, "largest": largest, "beyond": beyond,
                "seconds": round(time.monotonic() - since),
            }  # fmt: skip
            print(json.dumps({task: figures[task]}), flush=True)
    faulty = sum(bool(one["beyond"]) for one in figures.values())
    seconds = round(time.monotonic() - began)
    write_figures(args.output, "leaks", {"steps": args.steps, **figures, "faulty": faulty, "seconds": seconds})
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
