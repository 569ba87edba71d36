"""The curves of a run in a tracker of experiments, by that tracker's own library, where it is installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from convmae.engine.errors import UserError
from convmae.engine.files import write_whole
from convmae.engine.log import log
from convmae.engine.safe_yaml import parse_yaml

_PROJECT = "convmae"
_KEPT = "tracker.json"  # which run of a tracker a work directory's is, so that it goes on there
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow (or mlflow-skinny)"}


class _Started(NamedTuple):
    """A run in a tracker: its name there, how values of a step are added, how it ends."""

    name: str
    add: Callable[[int, Mapping[str, float]], Any]
    end: Callable[[], Any]


def check_tracker(kind: str) -> None:
    """Raises UserError where the library of a tracker is not installed; ``none`` is none."""
    if kind in _PACKAGES and find_spec(kind) is None:
        raise UserError(
            f"runtime.tracker is {kind}, which is not installed here; expected its library: pip install {_PACKAGES[kind]}, or "
            "runtime.tracker=none."
        )


class Tracker:
    """A run's curves in a tracker. What fails after the start is said once, and the run goes on without it.

    Raises UserError where the tracker can't be started.
    """

    def __init__(self, kind: str, work_dir: Path, recipe: str) -> None:
        self.kind, place = kind, work_dir / _KEPT
        known = json.loads(place.read_text(encoding="utf-8")).get(kind) if place.is_file() else None
        try:
            self.run: _Started | None = _STARTS[kind](work_dir, parse_yaml(recipe, "recipe"), known)
        except Exception as error:  # whatever a library raises that speaks to a server
            again = f" The run is to go on there by {place}; without that file it begins anew." if known else ""
            raise UserError(
                f"{kind} can't be started: {_said(error)}.{again} Expected its own variables to set it up, or "
                "runtime.tracker=none."
            ) from error
        write_whole(place, json.dumps({kind: self.run.name}))

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Adds the values of a step."""
        if self.run:
            self._attempt(lambda run: run.add(step, row))

    def close(self) -> None:
        """Ends the run in the tracker."""
        if self.run:
            self._attempt(lambda run: run.end())
        self.run = None

    def _attempt(self, what: Callable[[_Started], Any]) -> None:
        assert self.run is not None
        try:
            what(self.run)
        except Exception as error:  # a training is worth more than its curves elsewhere
            log.warning(
                f"{self.kind} failed and gets no more of this run, whose curves are in its work directory: {_said(error)}"
            )
            self.run = None


def _wandb(work_dir: Path, options: Any, known: str | None) -> _Started:
    import wandb

    run = wandb.init(
        project=_PROJECT,
        name=work_dir.name,
        dir=work_dir,
        config=options,
        id=known,
        resume="allow",
        settings=wandb.Settings(console="off"),  # the log is a file of the run's own
    )
    run.define_metric("*", step_metric="step")  # W&B's own steps can't go back to a checkpoint
    return _Started(run.id, lambda step, row: run.log({"step": step, **row}), run.finish)


def _mlflow(work_dir: Path, options: Any, known: str | None) -> _Started:
    import mlflow

    mlflow.set_experiment(_PROJECT)
    run = mlflow.start_run(run_id=known, run_name=None if known else work_dir.name)
    if not known:
        mlflow.log_params({name: str(value)[:500] for name, value in _flat(options).items()})
    return _Started(run.info.run_id, lambda step, row: mlflow.log_metrics(dict(row), step=step), mlflow.end_run)


_STARTS = {"wandb": _wandb, "mlflow": _mlflow}


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Returns the leaves of a tree by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {above + name: value}
    return found


def _said(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
