"""What a run left, beside what another left that was not disturbed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from convmae.engine.training.checkpoints import list_checkpoints

# Among the numbers of metrics.json and scalars.jsonl.
OF_THE_MOMENT = {"seconds", "seconds_per_step", "pictures_per_second", "waiting", "memory_gib"}


def differences(left: Path, right: Path, alone: Collection[int] = ()) -> list[str]:
    """Returns in what the run in ``right`` differs from the one in ``left``: files, weights and other values, bit for bit.

    ``alone``: steps whose losses one process has logged by itself, as it has said, so that they are no means over all.
    """
    names = [_kept(folder) for folder in (left, right)]
    found = [f"{name} is missing" for name in sorted(names[0] - names[1])]
    found += [f"{name} is left over" for name in sorted(names[1] - names[0])]
    for name in sorted(names[0] & names[1]):
        if name.endswith((".pth", ".safetensors", "metrics.json")):
            one, two = (_read(folder / name) for folder in (left, right))
            found += [f"{name}: {place}" for place in _unequal(one, two)][:5]
    one, two = ([_of_all(row) if row["step"] in alone else row for row in rows(folder)] for folder in (left, right))
    doubled = [key for key, count in Counter((row["step"], "lr" in row) for row in two).items() if count > 1]
    found += [f"scalars.jsonl: step {step} is there twice" for step, _ in doubled]
    if one != two and not doubled:
        changed = [b["step"] for a, b in zip(one, two, strict=False) if a != b][:5]
        found.append(f"scalars.jsonl: {len(two)} rows, not {len(one)}, and others at the steps {changed}")
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's scalars as they stand in the file, less the times."""
    path = folder / "scalars.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [_lasting(json.loads(line)) for line in lines]


def _read(path: Path) -> Any:
    if path.suffix == ".pth":
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".json":
        return _lasting(json.loads(path.read_text(encoding="utf-8")))
    with safe_open(path, "pt") as file:  # the order of what it says of itself is left to chance
        return {"metadata": file.metadata(), **{name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def _of_all(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("step", "lr") if name in row}


def _lasting(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name not in OF_THE_MOMENT}


def _kept(folder: Path) -> set[str]:
    """Names of a run's files, but of those that tell when it was ended: checkpoints before the last, and TensorBoard's."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    earlier = list_checkpoints(folder)[:-1]
    return files - {path.relative_to(folder).as_posix() for path in [*earlier, *(folder / "tensorboard").glob("*")]}


def _unequal(one: Any, two: Any, place: str = "") -> list[str]:
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same = one.dtype == two.dtype and one.shape == two.shape and torch.equal(one, two)
        return [] if same else [place]
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [found for key in one for found in _unequal(one[key], two[key], f"{place}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return [found for number, (a, b) in pairs for found in _unequal(a, b, f"{place}/{number}")]
    return [] if type(one) is type(two) and one == two else [place]
