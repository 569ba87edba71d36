"""The folder that a run or a test writes: made, held by one process, and cleared of nothing that is not the run's own."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from convmae.engine.config import differing_options
from convmae.engine.errors import UserError
from convmae.engine.log import process_rank
from convmae.engine.run_files import LIST, listed, matching, not_listed, only_one, remove_listed, start_list, sweep
from convmae.engine.text import visible

# What a run writes, but for its log and curves, which it goes on with.
_REPORT = ("config.yaml", "metrics.json", "report/index.html", "detections.json", "predictions.zip", "log.txt")
_RUN = (
    *_REPORT,
    *(
        "step_*.pth",
        "best.pth",
        "best_encoder.pth",
        "best_encoder.safetensors",
        "model.pth",
        "encoder.pth",
        "encoder.safetensors",
        "pretrained.pth",
        "pretrained.safetensors",
        "reconstructions.png",
        "scalars.jsonl",
        "tracker.json",
        "job.txt",
    ),
)
_MARKS = ("config.yaml", "metrics.json", "step_*.pth")  # a log alone is of a run that was refused before it began
_WEIGHTS = (".pth", ".safetensors")
# What says where and how a run is computed, watched and kept, and nothing of what it is.
_CIRCUMSTANCES = (
    r"data\.(workers|timeout|keep)|schedule\.(save_every|save_minutes|keep_checkpoints)|"
    r"runtime\.(device|timeout|tracker|shard|compile|compile_mode|checkpoint_activations|log_every)"
)


def alone_in(work_dir: Path) -> AbstractContextManager[None]:
    """Makes a work directory and keeps it for this run. Raises UserError if it can't be written or another run has it."""
    _make(work_dir)
    return only_one(work_dir) if process_rank() == 0 else nullcontext()


def kept_recipe(work_dir: Path) -> Path:
    """Returns the config.yaml by which a run is continued. Raises UserError where there is none."""
    recipe = work_dir / "config.yaml"
    if not recipe.is_file():
        raise UserError(
            f"There is no {recipe}, which would say what --resume continues; give the work directory of the run by --work-dir, "
            "or its recipe by --config."
        )
    return recipe


def check_same_run(work_dir: Path, config: Any) -> None:
    """Raises UserError, from the first process, where a work directory holds a run by other options than ``config``."""
    kept = work_dir / "config.yaml"
    if process_rank() != 0 or not kept.is_file():
        return
    changes = [
        (name, before, now)
        for name, before, now in differing_options(kept, config)
        if re.fullmatch(_CIRCUMSTANCES, name) is None
        and before.rstrip("/") != now.rstrip("/")  # data and data/ are one
    ]
    if changes:
        name, before, now = changes[0]
        more = f" ({len(changes) - 1} more)" * (len(changes) > 1)
        raise UserError(
            f"{work_dir} holds another run: {name} is {before or 'empty'} there and {now or 'empty'} in this command{more}; "
            "--resume auto continues what the same command began. Give another --work-dir, or start anew with --overwrite "
            "alone; plain --resume continues that run, with --config and others of its options if need be."
        )


def prepare_work_dir(work_dir: Path, resume: bool, overwrite: bool) -> None:
    """Makes a run's work directory. Raises UserError if it can't be written or holds what the run would replace."""
    if resume and overwrite:
        raise UserError("--resume continues the run in the work directory, --overwrite removes it: give one of them.")
    if resume:
        _make(work_dir)
        if not matching(work_dir, ["step_*.pth"]):  # it starts anew, and may replace what an earlier start of it wrote
            _refuse_foreign(work_dir, _RUN)
        _start_list(work_dir)
        return
    advice = "Continue it with --resume, replace it with --overwrite, or give another --work-dir."
    _prepare(work_dir, overwrite, f"an earlier run (%s). {advice}", _RUN)


def prepare_report_dir(work_dir: Path, overwrite: bool) -> None:
    """Makes the folder of a test's report. Raises UserError as `prepare_work_dir` does, and where a training run is."""
    weights = [path for path in listed(work_dir) or () if path.suffix in _WEIGHTS and path.is_file()]
    if weights or matching(work_dir, ["step_*.pth"]):
        raise UserError(f"{work_dir} holds a training run, whose report would be replaced. Give another --work-dir.")
    advice = "Replace it with --overwrite, or give another --work-dir."
    _prepare(work_dir, overwrite, f"an earlier report (%s). {advice}", _REPORT)


def _make(work_dir: Path) -> None:
    if process_rank() != 0:  # it writes nothing there; of many, the first says what is wrong
        return
    try:
        str(work_dir).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"The name of the work directory, {visible(str(work_dir))}, is not in UTF-8, as TensorBoard expects. Give "
            "another by --work-dir."
        ) from None
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(work_dir, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(
            f"The work directory {work_dir} can't be written: {error.strerror}. Give another by --work-dir."
        ) from None


def _prepare(work_dir: Path, overwrite: bool, found: str, names: Sequence[str]) -> None:
    """Makes a folder in which none of ``names`` is left: what a run wrote goes if that is asked for, the user's never."""
    _make(work_dir)
    if process_rank() != 0:
        return
    own = listed(work_dir)
    if own and not overwrite:
        earlier = [path for path in matching(work_dir, _MARKS) if path in own]
        if earlier:
            raise UserError(f"{work_dir} holds {found % earlier[0].name}")
    _refuse_foreign(work_dir, names)
    if overwrite:
        sweep(work_dir)
        remove_listed(work_dir)
    _start_list(work_dir)


def _refuse_foreign(work_dir: Path, names: Sequence[str]) -> None:
    """Raises UserError where a folder holds files of these names that no run wrote."""
    foreign = not_listed(work_dir, names) if process_rank() == 0 else []
    if foreign:
        some = ", ".join(path.relative_to(work_dir).as_posix() for path in foreign[:3])
        raise UserError(
            f"{work_dir} holds {some}{', ...' * (len(foreign) > 3)}, which would be replaced and stands on no list of what "
            f"a run wrote there ({LIST}). Give another --work-dir, or move it."
        )


def _start_list(work_dir: Path) -> None:
    if process_rank() == 0:
        sweep(work_dir)
        start_list(work_dir)
