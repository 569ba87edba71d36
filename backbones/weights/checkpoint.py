"""Loads weights into a model: finds the matching names, resamples what depends on the grid, and reports every key."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from convmae.backbones.position import Grid, resample_bias_table, resample_offsets, resample_pos_embed
from convmae.backbones.weights.load_report import LoadReport
from convmae.backbones.weights.weight_files import CheckpointError, find_weights, read_weights
from convmae.backbones.weights.weight_values import check_values

_logger = logging.getLogger(__name__)

# A file that fits worse than this is of another model: a plain ViT, say, shares `pos_embed` and `norm` with ours.
MIN_MATCH = 0.1

# Inserted into names by wrappers of modules, anywhere in the name.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# What follows from a window's size, and what is no weight, such as a class list: made anew where it is needed at all.
_IGNORED = ("relative_position_index", "_extra_state")
_BIAS_TABLE = "relative_position_bias_table"
_NUMBERS = "biufc"  # numpy's kinds of arrays that tensors hold
_OFFSETS = ("rel_pos_h", "rel_pos_w")
_FIRST_LAYERS = ("patch_embed1.proj.weight", "patch_embed.proj.weight")  # a ConvViT's, a plain ViT's

# A value in the model's shape, "resized", "converted" or "" for as it was, and how; or None, "" and why not.
_Fitted = tuple[Tensor | None, str, str]


def load_checkpoint(
    model: nn.Module,
    path_or_state_dict: str | Path | Mapping[str, Any],
    strict: bool = False,
    left_out: Mapping[str, str] | None = None,
    source: str = "the state dict",
) -> LoadReport:
    """Loads weights of any known layout into `model`, in place, and says what became of every key.

    The prefix that gives most matches is taken off the names. Positions are resampled to the model's grid (bicubic, in
    fp32), relative positions to its window or grid; separate query, key and value projections are fused.

    Args:
        model: any encoder or pretraining model of this project, or a module whose names resemble theirs.
        path_or_state_dict: a file (see `read_weights`), a state dict, or a checkpoint's content.
        strict: missing and unexpected names are an error.
        left_out: how names of the model begin that keep their values, and why.
        source: where a state dict is from, for the report.

    Raises:
        CheckpointError: a file that can't be read safely, weights of another model, values that can't be meant (see
            `check_values`), or an inexact match under `strict`. The model is then left as it was.
    """
    if isinstance(path_or_state_dict, (str, Path)):
        state, source = read_weights(path_or_state_dict)
    else:
        state, inside = find_weights(path_or_state_dict, source)
        source = f"{source}, under {inside}" if inside else source
    targets = {
        _unwrapped(name): (name, value) for name, value in model.state_dict().items() if isinstance(value, Tensor)
    }
    prefix, *others = _best_prefixes(state, targets)
    if prefix or others:
        source += f", prefix '{prefix}'" + "".join(f", not '{other}', which fits as well" for other in others)
    report = LoadReport([], [], [], [], source, total=len(targets))

    given = _match(state, targets, prefix, report)
    fitted: dict[str, Tensor] = {}
    taken: dict[str, Tensor] = {}  # by the file's names
    for name, (origins, value) in given.items():
        own_name, target = targets[name]
        unwanted = next((why for start, why in (left_out or {}).items() if name.startswith(start)), None)
        fit, kind, how = (None, "", unwanted) if unwanted else _fit(value, target, own_name, model)
        if fit is None:
            report.unexpected += origins
            report.notes |= dict.fromkeys([name, *origins], how)
            continue
        fitted[own_name] = fit
        if target.is_floating_point() or value.is_floating_point() or value.is_complex():
            taken[origins[0]] = value
        if kind:
            report.notes[name] = how
            (report.resized if kind == "resized" else report.converted).append(name)
    report.missing = [name for name, (own_name, _) in targets.items() if own_name not in fitted]
    report.loaded = len(fitted)

    if len(fitted) < max(1, MIN_MATCH * min(len(state), len(targets))):
        raise CheckpointError(_another_model(state, targets, model, report))
    if strict and (report.missing or report.unexpected):
        raise CheckpointError(f"the weights don't match {type(model).__name__} exactly. {report}")
    check_values(taken, source, state)
    model.load_state_dict(fitted, strict=False)
    return report


def fit_state(model: nn.Module, state: dict[str, Any], prefix: str = "", *others: object) -> None:
    """Fits a state dict to `model` in place, as `load_checkpoint` fits values: a hook before PyTorch's own strict loading.

    Names and shapes that don't fit stay for PyTorch to refuse.

    Raises:
        CheckpointError: values that can't be meant (see `check_values`).
    """
    taken: dict[str, Tensor] = {}
    for name, target in model.state_dict().items():
        value = state.get(prefix + name)
        if not isinstance(value, Tensor) or value.is_meta:
            continue
        fit, _, how = _fit(value, target, name, model)
        if fit is None:
            continue
        state[prefix + name] = fit
        if target.is_floating_point():
            taken[prefix + name] = value
        if how:
            _logger.info(f"{name}: {how}")
    check_values(taken, "the state dict", state)


def best_prefix(names: Iterable[str], targets: Iterable[str]) -> str:
    """The prefix of `names` under which most of them are `targets`: "" or "module.", "backbone.bottom_up.", ..."""
    return _best_prefixes(names, targets)[0]


def _best_prefixes(names: Iterable[str], targets: Iterable[str]) -> list[str]:
    """The prefixes under which most names are targets, in order; several where a file holds several models."""
    targets = set(targets)
    votes: Counter[str] = Counter({"": 0})
    for name in map(_unwrapped, names):
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        votes.update(name[:start] for start in starts if name[start:] in targets)
    most = max(votes.values())
    return [prefix for prefix, count in votes.items() if count == most]


def _match(
    state: Mapping[str, Any], targets: Mapping[str, Any], prefix: str, report: LoadReport
) -> dict[str, tuple[list[str], Tensor]]:
    """The model's names with the file's names and values for them; what is left goes to the report."""
    given: dict[str, tuple[list[str], Tensor]] = {}
    rest: dict[str, tuple[str, Tensor]] = {}
    for origin, content in state.items():
        if isinstance(content, (np.ndarray, np.generic)) and content.dtype.kind in _NUMBERS:
            content = torch.as_tensor(np.array(content))
        if not isinstance(content, Tensor):
            report.unexpected.append(origin)
            report.notes[origin] = f"a {type(content).__name__}, not a tensor"
            continue
        value = content.detach()
        name = _unwrapped(origin)
        stripped = name.removeprefix(prefix)
        if stripped.endswith(_IGNORED) and stripped not in targets:
            report.ignored.append(origin)
        elif name.startswith(prefix) and stripped in targets:
            given[stripped] = ([origin], value)
        else:
            rest[stripped] = (origin, value)
    for name in targets:  # EasyCV keeps the decoder of pretraining in a module of its own
        if name not in given and f"neck.{name}" in rest:
            origin, value = rest.pop(f"neck.{name}")
            given[name] = ([origin], value)
    _fuse(targets, given, rest, report)
    report.unexpected += [origin for origin, _ in rest.values()]
    return given


def _fuse(
    targets: Mapping[str, Any],
    given: dict[str, tuple[list[str], Tensor]],
    rest: dict[str, tuple[str, Tensor]],
    report: LoadReport,
) -> None:
    """Puts separate query, key and value projections together as `qkv` (a key's bias may be absent: it is zero)."""
    for name in targets:
        module, _, kind = name.rpartition("qkv.")
        if not module or name in given:
            continue
        for spellings in ([f"q.{kind}", f"k.{kind}", f"v.{kind}"], [f"q_{kind}", f"k_{kind}", f"v_{kind}"]):
            parts = [rest.pop(module + spelling, None) for spelling in spellings]
            alike = {(value.shape, value.dtype) for part in parts if part is not None for value in part[1:]}
            if parts[0] is None or parts[2] is None or len(alike) > 1 or not parts[0][1].ndim:
                report.unexpected += [part[0] for part in parts if part is not None]
                continue
            query, key, value = parts[0], parts[1], parts[2]
            key_values = torch.zeros_like(query[1]) if key is None else key[1]
            given[name] = ([part[0] for part in parts if part], torch.cat([query[1], key_values, value[1]]))
            report.converted.append(name)
            report.notes[name] = "fused from " + ", ".join(part[0] for part in parts if part)


def _fit(value: Tensor, target: Tensor, name: str, model: nn.Module) -> _Fitted:
    """`value` in the shape of `target`."""
    before, after = list(value.shape), list(target.shape)
    if before == after:
        return value, "", ""
    if value.is_complex():
        return None, "", "complex values in the file"
    if name.endswith(_FIRST_LAYERS) and before[:1] + before[2:] == after[:1] + after[2:]:
        return _fit_channels(value, after[1])
    owner = model.get_submodule(name.rpartition(".")[0])
    grid: Grid | None = getattr(owner, "grid_size", None)
    window: Grid | None = getattr(owner, "window", None)
    if name.endswith("pos_embed") and grid and len(before) == 3 and before[::2] == after[::2]:
        return _fit_positions(value, target.shape[1], grid)
    if name.endswith(_BIAS_TABLE) and window and before and before[1:] == after[1:]:
        side = (square(before[0]) + 1) // 2
        if before[0] != (2 * side - 1) ** 2:
            return None, "", f"{before[0]} offsets in the file are no square window's"
        how = f"{side}x{side} -> {window[0]}x{window[1]} window"
        return resample_bias_table(value.float(), (side, side), window), "resized", how
    if name.endswith(_OFFSETS) and before and before[0] % 2 and before[1:] == after[1:]:
        sides = [(count + 1) // 2 for count in (before[0], after[0])]
        return resample_offsets(value.float(), sides[1]), "resized", f"{sides[0]} -> {sides[1]} tokens a side"
    if [size for size in before if size != 1] == [size for size in after if size != 1]:
        return (
            value.reshape(target.shape),
            "converted",
            f"reshaped from {before}",
        )  # a 1x1 convolution is a linear layer
    return None, "", f"shape {before} in the file, {after} in the model"


def _fit_channels(value: Tensor, wanted: int) -> _Fitted:
    """The first layer's weights [D, C, k, k] for another number of channels, by timm's rule, which is for RGB's.

    Of one channel they are RGB's sum, so that a grey picture gives what it did in RGB; of more, RGB's in turn, scaled by
    3 / channels.
    """
    found = value.shape[1]
    if found != 3:
        return (
            None,
            "",
            f"of {found} channels in the file, of {wanted} in the model: the model's in_chans must be {found}",
        )
    how = "inflated" if wanted > found else "reduced"
    return adapt_input_conv(wanted, value), "converted", f"{how} from {found} to {wanted} channels"


def _fit_positions(value: Tensor, wanted: int, grid: Grid) -> _Fitted:
    """Positions [1, rows, C] at the model's grid; a first row beyond the grid's is a class token's, in file or model."""
    rows, cells = value.shape[1], grid[0] * grid[1]
    has_class = rows == cells + 1 or (rows != cells and not square(rows) and square(rows - 1) > 0)
    class_row, table = value[:, : int(has_class)], value[:, int(has_class) :]
    changes, kind = [], "converted"
    if table.shape[1] != cells:
        side = square(table.shape[1])
        if not side:
            known = f"{rows} positions in the file, {wanted} in the model"
            return None, "", f"{known}: no square grid, so its sides can't be told"
        table, kind = resample_pos_embed(table.float(), (side, side), grid), "resized"
        changes.append(f"{side}x{side} -> {grid[0]}x{grid[1]} grid")
    if wanted == cells and has_class:
        changes.append("the class token's row cut off")
    elif wanted > cells:
        if not has_class:
            class_row = torch.zeros_like(value[:, :1])
            changes.append("no row for the class token: zeros")
        table = torch.cat([class_row.to(table.dtype), table], dim=1)
    return table, kind, ", ".join(changes)


def square(count: int) -> int:
    """The side of a square of `count` cells; 0 where it is none."""
    side = math.isqrt(max(count, 0))
    return side if side * side == count else 0


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _another_model(state: Mapping[str, Any], targets: Mapping[str, Any], model: nn.Module, report: LoadReport) -> str:
    found, expected = (", ".join(list(names)[:4]) for names in (state, targets))
    reason = ""
    if shape_notes := [f"{name}: {note}" for name, note in report.notes.items() if name in targets]:
        reason = f" ({shape_notes[0]})"
    return (
        f"{report.source} holds weights of another model: {report.loaded} of its {len(state)} tensors fit "
        f"{type(model).__name__}{reason}; found {found}, ...; expected {expected}, ..."
    )
