"""Disturbs tiny runs of the four tasks in two processes, has the same command continue them, and compares what is left.

python tests/soak/restarts.py --times 10 --seed 0: in each task so many times each, at random steps, a process is killed, or
torchrun, a process is stopped so that the other waits for it in vain, half of the pictures become unreadable. A line of JSON
for each, then the figures. Every start is the same command, with --resume auto. The exit status is 1 if a run did not end in
time, by itself and with its reason, or if what it left differs from a run that was not disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from comparing import differences
from figures import write_figures
from kills import LONGEST, OPTIONS, steps_logged
from processes import kill, marked, roles, wait_until
from runs import TASKS, command, make_data, start

from convmae.engine.training.checkpoints import list_checkpoints

PATIENCE = 30  # seconds, runtime.timeout
MINUTE = 60  # in which a run is to have ended once something is known to be wrong
FIRST, LAST = 1, 7  # steps after which a run of twelve is disturbed
SAID = {  # by a run that ends of it
    "rank": "Signal 9 (SIGKILL)",
    "agent": "",  # torchrun would have said it
    "hang": "has not answered in time",
    "picture": "error in process",
}


@contextmanager
def damaged(pictures: list[Path]) -> Iterator[None]:
    """Has pictures be none in its block."""
    whole = {picture: picture.read_bytes() for picture in pictures}
    for picture in pictures:
        picture.write_bytes(b"cut off")
    try:
        yield
    finally:
        for picture, content in whole.items():
            picture.write_bytes(content)


def disturb(case: str, draw: random.Random, known: dict[str, list[int]]) -> int:
    """Kills or stops one process of a run; returns which."""
    pid = draw.choice(known["agent" if case == "agent" else "rank"])
    os.kill(pid, signal.SIGSTOP if case == "hang" else signal.SIGKILL)
    return pid


def time_to_end(run: Popen, mark: str, within: float) -> float | None:
    """Returns the seconds until nothing of a run is left, None if something is after ``within``."""
    began = time.monotonic()
    ended = wait_until(lambda: run.poll() is not None and not marked(mark), within, 0.2)
    return round(time.monotonic() - began, 1) if ended else None


def trial(case: str, draw: random.Random, words: list[str], work_dir: Path, pictures: list[Path]) -> dict[str, Any]:
    """Disturbs a run, continues it by the same words to its end, and returns what happened."""
    log, faults = work_dir.with_name(f"{work_dir.name}.log"), []
    moment, pause = draw.randint(FIRST, LAST), draw.uniform(0, 0.2)
    run, mark = start(words, log)
    try:
        wait_until(lambda: run.poll() is not None or steps_logged(log) >= moment, LONGEST, 0.02)
        time.sleep(pause)
        limit = MINUTE + PATIENCE * (case == "hang")
        if case == "picture":
            with damaged(draw.sample(pictures, len(pictures) // 2)):
                seconds = time_to_end(run, mark, limit)
        else:
            disturb(case, draw, roles(mark, run.pid))
            seconds = time_to_end(run, mark, limit)
    finally:
        kill(marked(mark))
    run.wait()
    said, done = log.read_text(encoding="utf-8", errors="replace"), steps_logged(log)
    kept = max((int(path.stem[5:]) for path in list_checkpoints(work_dir)), default=0)
    if seconds is None:
        faults.append(f"not ended after {limit} s: {said[-800:]}")
    elif run.returncode == 0:
        faults.append("ended as if nothing had been")
    if SAID[case] not in said:
        faults.append(f"does not say {SAID[case]!r}: {said[-800:]}")
    if said.count("Traceback (most") > (case != "agent"):  # torchrun ends with one of its own
        faults.append("has a traceback")
    again, mark = start(words, log)
    try:
        wait_until(lambda: again.poll() is not None, LONGEST, 0.2)
    finally:
        kill(marked(mark))
    if again.wait():
        faults.append(f"continued, ended with {again.returncode}: {log.read_text(errors='replace')[-800:]}")
    alone = [int(step) for step in re.findall(r"the losses of step (\d+) are of this process alone", said)]
    found = {"case": case, "step": done, "kept": kept, "lost": done - kept, "seconds": seconds, "faults": faults}
    return found | ({"alone": alone} if alone else {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="how often each in each task (default 10)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all four")
    parser.add_argument("--cases", nargs="+", choices=list(SAID), default=list(SAID), help="default: all four")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn (default 0)")
    parser.add_argument("--output", type=Path, help="JSON file of figures")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no run is left behind
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="convmae-restarts-"))
    data = make_data(folder / "data")
    trials: list[dict[str, Any]] = []
    for number in range(args.times):
        for task in args.tasks:
            overrides = [*OPTIONS, f"runtime.timeout={PATIENCE}", "data.on_bad_image=stop"]
            words = [*command(task, data, whole := folder / task, *overrides, processes=2), "--resume", "auto"]
            if not whole.exists():
                run, mark = start(words, folder / f"{task}.log")
                try:
                    wait_until(lambda run=run: run.poll() is not None, LONGEST, 0.2)
                finally:
                    kill(marked(mark))
                if run.wait():
                    print((folder / f"{task}.log").read_text(errors="replace")[-2000:], flush=True)
                    return 1
            root = Path(next(word for word in words if word.startswith("data.root="))[10:])
            pictures = [path for path in sorted(root.rglob("*.jpg")) if "val" not in path.relative_to(root).as_posix()]
            for case in args.cases:
                draw, work_dir = (
                    random.Random(f"{args.seed} {task} {case} {number}"),
                    folder / f"{task}-{case}-{number}",
                )
                own = [str(work_dir) if word == str(whole) else word for word in words]
                result = {"task": task, **trial(case, draw, own, work_dir, pictures)}
                result["faults"] += differences(whole, work_dir, result.get("alone", ()))
                trials.append(result)
                print(json.dumps(result), flush=True)
                if result["faults"]:
                    print(f"kept: {work_dir}", flush=True)
                else:
                    shutil.rmtree(work_dir)
    faulty = sum(bool(one["faults"]) for one in trials)
    if not faulty:
        shutil.rmtree(folder)
    cases = {
        case: {
            "runs": len(own := [one for one in trials if one["case"] == case]),
            "seconds": [min(times := [one["seconds"] or 1e9 for one in own]), max(times)],
            "lost": max(one["lost"] for one in own),
        }
        for case in args.cases
    }
    figures = {"times": args.times, "runs": len(trials), "cases": cases, "faulty": faulty}
    write_figures(args.output, "restarts", {**figures, "seconds": round(time.monotonic() - began)})
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
