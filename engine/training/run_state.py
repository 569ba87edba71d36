"""What each part of a run's checkpoint must be, so that a run that continues from it goes on as if it had never stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convmae.engine.class_lists import check_class_lists
from convmae.engine.errors import UserError

_MOST = 1 << 53  # steps, pictures
_ADVICE = (
    "Expected a checkpoint that the same recipe wrote; give another --work-dir, or move it, and --resume takes the one "
    "before."
)
_SHOWN = 60  # characters of a value that a message tells


def check_state(content: object, path: Path) -> dict[str, Any]:
    """Returns a checkpoint's content. Raises UserError for parts that are missing or of other kinds than a run writes."""
    if not isinstance(content, dict) or not {"state_dict", "optimizer", "meta"} <= content.keys():
        raise UserError(
            f"{path} is no checkpoint of a run of this project; move it, and --resume takes the one before."
        )
    for part in ("state_dict", "optimizer", "meta"):
        _expect(isinstance(content[part], dict), path, part, content[part], "names with values")
    meta = content["meta"]
    _expect(_is_count(meta.get("step")), path, "meta.step", meta.get("step"), "a number of steps")
    samples = meta.get("samples")
    _expect(
        samples is None or (isinstance(samples, (list, tuple)) and len(samples) == 2 and all(map(_is_count, samples))),
        path, "meta.samples", samples, "the number of pictures and that of a step",
    )  # fmt: skip
    check_class_lists(meta, path)
    return content


def check_tensors(found: Mapping[Any, Any], own: Mapping[str, Any], path: Path, part: str) -> None:
    """Raises UserError unless ``found`` has the names of ``own``, with tensors of the same shapes and dtypes."""
    lacking = [name for name in own if name not in found]
    strange = [name for name in found if name not in own]
    if lacking or strange:
        which = f"lacks {lacking[0]}" if lacking else f"has {strange[0]!r:.60}, which this run's model has not"
        more = len(lacking) + len(strange) - 1
        raise UserError(
            f"{path} does not continue this run: its {part} {which}{f' ({more} more)' * bool(more)}. {_ADVICE}"
        )
    for name, value in own.items():
        if not isinstance(value, Tensor) or name.endswith("_extra_state"):
            continue
        _expect(
            isinstance(found[name], Tensor) and _form(found[name]) == _form(value),
            path, f"{part}, {name}:", found[name], _form(value),
        )  # fmt: skip


def check_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer, path: Path, step: int) -> None:
    """Raises UserError unless a state of AdamW's is of this optimiser's parameters, and moments have their shapes."""
    groups, moments = state.get("param_groups"), state.get("state")
    own = optimizer.state_dict()["param_groups"]
    _check_trained(groups, own, path)
    _expect(
        isinstance(groups, list)
        and all(isinstance(group, dict) for group in groups)
        and [_members(group) for group in groups] == [_members(group) for group in own],
        path, "optimizer.param_groups", groups, f"{len(own)} groups of this run's parameters",
    )  # fmt: skip
    numbers = [number for group in own for number in group["params"]]
    parameters = dict(zip(numbers, (one for group in optimizer.param_groups for one in group["params"]), strict=True))
    _expect(
        isinstance(moments, dict) and moments.keys() <= parameters.keys() and (bool(moments) or not step),
        path, "optimizer.state", moments, "moments of this run's parameters",
    )  # fmt: skip
    for number, kept in dict(moments or {}).items():
        expected = _form(parameters[number])
        for name in ("exp_avg", "exp_avg_sq"):
            value = kept.get(name) if isinstance(kept, dict) else kept
            _expect(
                isinstance(value, Tensor) and _form(value) == expected and bool(value.isfinite().all()),
                path, f"optimizer.state, {name} of {number}:", value, f"finite values, {expected}",
            )  # fmt: skip
        taken = kept.get("step")
        _expect(
            isinstance(taken, Tensor) and taken.numel() == 1 and taken.is_floating_point() and 0 <= taken.item() < _MOST,
            path, f"optimizer.state, step of {number}:", taken, "a number of steps",
        )  # fmt: skip
    scale = state.get("loss_scaler", {})
    _expect(
        isinstance(scale, dict)
        and all(isinstance(value, (int, float)) and 0 <= value < math.inf for value in scale.values()),
        path, "optimizer.loss_scaler", scale, "numbers by name",
    )  # fmt: skip


def _check_trained(groups: Any, own: list[dict[str, Any]], path: Path) -> None:
    """Raises UserError where a whole state is of other parameters than this run trains."""
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return
    numbers = [number for group in groups for number in _members(group)[0] or ()]
    if not numbers or numbers != list(range(len(numbers))):  # as PyTorch numbers them
        return
    before, now = ({name for group in some for name in _members(group)[1] or ()} for some in (groups, own))
    for names, did, does in ((before - now, "trained", "keeps frozen"), (now - before, "kept frozen", "trains")):
        if names:
            more = f" and {len(names) - 1} more" * (len(names) > 1)
            raise UserError(
                f"{path} does not continue this run: training {did} there what this run {does}, {min(names, key=str)}{more}; "
                "expected model.freeze as it was. With another one a run is new: give another --work-dir, and these weights "
                "by model.init."
            )


def check_average(state: Any, own: Mapping[str, Tensor], path: Path) -> None:
    """Raises UserError unless a state is that of an average of these weights."""
    _expect(
        isinstance(state, dict) and _is_count(state.get("steps")) and isinstance(state.get("values"), dict),
        path, "average", state, "the average that optim.average asks for",
    )  # fmt: skip
    check_tensors(state["values"], own, path, "average")
    for name, value in state["values"].items():
        _expect(bool(value.isfinite().all()), path, f"average, {name}:", value, "finite values")


def _expect(holds: bool, path: Path, part: str, found: object, expected: str) -> None:
    if not holds:
        raise UserError(
            f"{path} does not continue this run: its {part} is {_described(found)}; expected {expected}. {_ADVICE}"
        )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return _form(value) if value.numel() > 1 or value.is_meta else f"{value.flatten().tolist()}"
    if value is None:
        return "missing"
    if isinstance(value, (bool, int, float, str)):
        return f"{value!r:.{_SHOWN}}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (dict, list, tuple)) else "")


def _form(value: Tensor) -> str:
    meta = " without values" if value.is_meta else ""
    return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}{meta}"


def _members(group: dict[str, Any]) -> list[Any]:
    lists = [group.get("params"), group.get("names")]
    return [
        one if isinstance(one, list) and all(isinstance(part, (int, str)) for part in one) else None for one in lists
    ]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST
