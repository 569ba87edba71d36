"""Kills tiny runs of the four tasks by SIGKILL at random moments, continues them, and compares what they leave at the end.

python tests/soak/kills.py --kills 40 --seed 0: a line of JSON for each run, killed one to three times, then the figures. The
exit status is 1 if anything differs from a run that was not disturbed, or if files begun or processes are left.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any, NamedTuple

from comparing import differences
from figures import write_figures
from processes import kill, marked, roles, wait_until
from runs import TASKS, command, make_data, start

STEPS = 12
OPTIONS = [f"schedule.steps={STEPS}", "schedule.save_every=3", "schedule.eval_every=5", "runtime.log_every=1"]
LONGEST = 600  # seconds for a run, many times what it takes
TO_END = 30  # seconds in which what is left of a killed run ends; its loader processes look every five

# What is killed, and how often: the whole run, as when memory ends on a node, or one process of it.
TARGETS = {1: {"all": 5, "rank": 4, "loader": 1}, 2: {"all": 4, "rank": 4, "agent": 1, "loader": 1}}
MOMENTS = {"step": 7, "file": 3, "start": 1}  # some time after a step, while a file is written, while the tool starts


class Moment(NamedTuple):
    """When a run is killed: ``after`` seconds past a step's line in the log, the ``count``-th file begun, or the start."""

    kind: str
    count: int
    after: float


def draw_moment(draw: random.Random, done: int) -> Moment:
    """Returns a moment of a run that has ``done`` steps behind it."""
    kind = draw.choices(list(MOMENTS), list(MOMENTS.values()))[0]
    if kind == "step":
        return Moment(kind, draw.randint(min(done + 1, STEPS), STEPS), draw.uniform(0, 2))
    if kind == "file":
        return Moment(kind, draw.randint(1, 4), draw.uniform(0, 0.05))
    return Moment(kind, 0, draw.uniform(0, 8))


def steps_logged(log: Path) -> int:
    """Returns the last step of a log."""
    found = re.findall(rf"step (\d+)/{STEPS}  loss", log.read_text(encoding="utf-8", errors="replace"))
    return int(found[-1]) if found else 0


def wait_for(moment: Moment, run: Popen, work_dir: Path, log: Path) -> bool:
    """Waits for a moment and returns whether the run still goes on then."""
    seen: set[tuple[str, int]] = set()

    def reached() -> bool:
        if run.poll() is not None or moment.kind == "start":
            return True
        if moment.kind == "step":
            return steps_logged(log) >= moment.count
        for path in parts(work_dir):
            with suppress(FileNotFoundError):  # it is whole by now
                seen.add((path.name, path.lstat().st_ino))
        return len(seen) >= moment.count

    wait_until(reached, LONGEST, 0.002 if moment.kind == "file" else 0.02)
    time.sleep(moment.after)
    return run.poll() is None


def parts(work_dir: Path) -> list[Path]:
    """Returns the files that a run has begun."""
    return [path for path in work_dir.glob(".*.part") if path.exists()]


def kill_once(
    processes: int, draw: random.Random, run: Popen, mark: str, work_dir: Path, log: Path
) -> dict[str, Any] | None:
    """Kills a run, or one process of it, at a random moment and returns what was killed and when; None if it had ended."""
    behind = max([int(path.stem[5:]) for path in work_dir.glob("step_*.pth")], default=0)
    moment = draw_moment(draw, behind)
    target = draw.choices(list(TARGETS[processes]), list(TARGETS[processes].values()))[0]
    if not wait_for(moment, run, work_dir, log):
        return None
    known = roles(mark, run.pid)
    pids = [*itertools.chain(*known.values())] if target == "all" else known[target][-1:]
    kill(pids)
    return {"what": target, "when": moment.kind, "step": steps_logged(log)} if pids else None


def end(run: Popen, mark: str) -> list[str]:
    """Waits for the end of a run of which something was killed, and returns which processes had to be ended."""
    wait_until(lambda: run.poll() is not None and not marked(mark), TO_END + 90 * (run.poll() is None), 0.2)
    left = marked(mark)
    found = [f"{role} {pid}" for role, pids in roles(mark, run.pid).items() for pid in pids if pid in left]
    kill(left)
    run.wait()
    return found


def trial(task: str, processes: int, kills: int, draw: random.Random, words: list[str], work_dir: Path) -> dict:
    """Runs ``words`` to its end, killed up to ``kills`` times, and returns what happened."""
    began, done, faults = time.monotonic(), [], []
    for number in itertools.count():
        log = work_dir.with_name(f"{work_dir.name}.{number}.log")
        run, mark = start([*words, "--resume"], log)
        killed = len(done)
        try:
            if number < kills and (one := kill_once(processes, draw, run, mark, work_dir, log)):
                done.append(one)
            else:
                with suppress(TimeoutExpired):  # what goes on is left over
                    run.wait(LONGEST)
            faults += [f"left over: {one}" for one in end(run, mark)]
        finally:
            kill(marked(mark))
        said = log.read_text(encoding="utf-8", errors="replace")
        if len(done) > killed:
            done[-1]["tracebacks"] = said.count("Traceback (most")
        elif run.returncode:
            faults.append(f"ended with {run.returncode}: {said[-500:]}")
        if run.returncode == 0 or len(done) == killed:
            return {
                "task": task, "processes": processes, "kills": done, "faults": faults,
                "seconds": round(time.monotonic() - began),
            }  # fmt: skip
    raise AssertionError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="how many (default 40)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all four")
    parser.add_argument("--processes", nargs="+", type=int, choices=[1, 2], default=[1, 2], help="default: 1 and 2")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn (default 0)")
    parser.add_argument("--output", type=Path, help="JSON file of figures")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no run is left behind
    draw, began = random.Random(args.seed), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="convmae-kills-"))
    data = make_data(folder / "data")
    forms = [(task, processes) for processes in args.processes for task in args.tasks]
    trials: list[dict] = []
    counted, faulty = Counter[str](), 0
    while counted["kills"] < args.kills:
        task, processes = forms[len(trials) % len(forms)]
        whole = folder / f"{task}-{processes}"
        work_dir = folder / f"{task}-{processes}-{len(trials)}"
        if not whole.exists():
            untouched = trial(
                task, processes, 0, draw, command(task, data, whole, *OPTIONS, processes=processes), whole
            )
            if untouched["faults"]:
                print(json.dumps(untouched), flush=True)
                return 1
        kills = min(draw.randint(1, 3), args.kills - counted["kills"])
        words = command(task, data, work_dir, *OPTIONS, processes=processes)
        result = trial(task, processes, kills, draw, words, work_dir)
        result["faults"] += differences(whole, work_dir)
        trials.append(result)
        print(json.dumps(result), flush=True)
        for one in result["kills"]:
            counted.update(["kills", task, f"{processes} processes", f"of {one['what']}", f"at {one['when']}"])
        if result["faults"]:
            faulty += 1
            print(f"kept: {work_dir}", flush=True)
        else:
            shutil.rmtree(work_dir)
    if not faulty:
        shutil.rmtree(folder)
    seconds = round(time.monotonic() - began)
    write_figures(args.output, "kills", {**counted, "runs": len(trials), "faulty": faulty, "seconds": seconds})
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
