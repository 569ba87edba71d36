"""A run's checkpoints in its work directory: their names, and the newest that is whole."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.dist import is_main_process

from convmae.backbones.weights.safe_files import CheckpointError, DamagedFile, read_file
from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.engine.machine.processes import tell_all
from convmae.engine.run_files import claim
from convmae.engine.training.run_state import check_state

BEST = "best.pth"
_NAME = re.compile(r"step_([0-9]+)\.pth")
_ASIDE = ".damaged"  # what the name of a checkpoint ends in that a run has passed over


class Found(NamedTuple):
    """The newest checkpoint that is whole, None if there is none, and what is wrong with each newer one."""

    path: Path | None
    damaged: dict[Path, str]


def checkpoint_path(work_dir: Path, step: int) -> Path:
    """Returns where the checkpoint after ``step`` steps is written."""
    return work_dir / f"step_{step}.pth"


def list_checkpoints(work_dir: Path) -> list[Path]:
    """Returns the checkpoints of a work directory in order of their steps; files that only resemble one are none."""
    found = [(int(match[1]), path) for path in work_dir.glob("step_*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_file()]


def latest_checkpoint(work_dir: Path) -> Path | None:
    """Returns the checkpoint of the most steps in a work directory, or None."""
    return next(reversed(list_checkpoints(work_dir)), None)


def find_whole(work_dir: Path) -> Found:
    """Finds the checkpoint that a run continues from, the same in all processes, and warns of newer ones that are damaged.

    Raises UserError where there are checkpoints, but none is whole.
    """
    found: Found = tell_all(_find_whole(work_dir) if is_main_process() else None)
    reasons = "\n".join(f"  {reason}" for reason in found.damaged.values())
    if found.path is None and found.damaged:
        raise UserError(
            f"No checkpoint in {work_dir} is whole:\n{reasons}\nBring one back from a copy, then --resume continues from it; "
            "weights that the run has kept (best.pth, model.pth) start a new one in another --work-dir by model.init."
        )
    for path, reason in found.damaged.items():
        log.warning(f"{path.name} is passed over: {reason}")
    return found


def set_aside(damaged: dict[Path, str]) -> None:
    """Renames damaged checkpoints from the main process, so that none counts among those that are kept, and says so."""
    for path in damaged if is_main_process() else ():
        aside = path.with_name(path.name + _ASIDE)
        claim(aside)
        os.replace(path, aside)
        log.warning(f"{path.name} is now {aside.name}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns what a checkpoint holds, its parts checked. Raises UserError for one that can't be read, or is none of a run."""
    try:
        content = read_file(path)
    except CheckpointError as error:
        raise UserError(f"{error}. It is the newest checkpoint that --resume found in its work directory.") from None
    return check_state(content, path)


def _find_whole(work_dir: Path) -> Found:
    damaged: dict[Path, str] = {}
    for path in reversed(list_checkpoints(work_dir)):
        try:
            read_file(path, values=False)
        except DamagedFile as error:
            damaged[path] = str(error)
        except CheckpointError:
            return Found(path, damaged)  # no damage: reading it says what it is
        else:
            return Found(path, damaged)
    return Found(None, damaged)
