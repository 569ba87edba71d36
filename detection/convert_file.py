"""A detector's file turned into another framework's layout, or back: which conversion it takes, and what is told of it."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convmae.backbones.weights.weight_files import read_weights
from convmae.detection.config import MMDET, PORT, PUBLISHED, DetectionConfig
from convmae.detection.model.convert import Converted, detector_from_detectron2, detector_to_detectron2
from convmae.detection.model.convert_mmdet import check_norm, detector_from_mmdet, detector_to_mmdet
from convmae.engine.config import load_config, run_config, to_yaml
from convmae.engine.errors import UserError
from convmae.engine.files import read_meta, save_weights
from convmae.engine.text import visible


class Output(NamedTuple):
    """What is written: weights, their recipe as YAML and what else is said of them, and what is told of their use."""

    converted: Converted
    hint: str
    recipe: str = ""
    meta: Mapping[str, Any] = {}


def to_convmae(state: dict[str, Tensor], source: str, args: argparse.Namespace) -> Output:
    """Converts a detectron2 detector."""
    recipe = args.config or (PORT if any(name.startswith("backbone.net.") for name in state) else PUBLISHED)
    options = list(args.cfg_options)
    if not args.config and any(name.startswith("roi_heads.box_predictor.0.") for name in state):
        options.insert(0, "model.cascade=true")
    config = load_config(DetectionConfig, recipe, options)
    converted = detector_from_detectron2(state, source, config, args.annotations)
    return Output(converted, _evaluated(recipe, options, args.output), to_yaml(config))


def mmdet_to_convmae(state: dict[str, Tensor], source: str, args: argparse.Namespace) -> Output:
    """Converts an mmdet detector."""
    recipe = args.config or MMDET
    config = load_config(DetectionConfig, recipe, args.cfg_options)
    converted = detector_from_mmdet(state, source, config, args.annotations, read_meta(args.weights))
    return Output(converted, _evaluated(recipe, args.cfg_options, args.output), to_yaml(config))


def _evaluated(recipe: str, options: Sequence[str], output: Path) -> str:
    command = ["python", "tools/test_det.py", str(output), "--config", recipe]
    if options:
        command += ["--cfg-options", *options]
    return f"to evaluate it: {shlex.join(command)}"


def to_detectron2(state: dict[str, Tensor], source: str, args: argparse.Namespace) -> Output:
    """Converts a detector of this project."""
    _check_needless(annotations=args.annotations, config=args.config, cfg_options=args.cfg_options)
    return Output(detector_to_detectron2(state, source), "how detectron2 takes it: docs/detectron2.md")


def to_mmdet(state: dict[str, Tensor], source: str, args: argparse.Namespace) -> Output:
    """Converts a detector of this project, by whose names alone batch norm is known."""
    _check_needless(annotations=args.annotations)
    converted, meta = detector_to_mmdet(state, source)
    if any(name.endswith(".running_mean") for name in state):
        _check_needless(config=args.config, cfg_options=args.cfg_options)
    else:
        check_norm(run_config(DetectionConfig, args.weights, args.config, args.cfg_options).model.norm, source)
    return Output(converted, "how mmdet takes it: docs/mmdetection.md", meta=meta)


def _check_needless(**options: Any) -> None:
    if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if value]:
        raise UserError(f"{' and '.join(given)} say what files of other frameworks lack; leave them out here.")


class Direction(NamedTuple):
    """A conversion, known by how a name begins, after any prefix, that only its source's layout has."""

    mark: str
    layout: str
    to: str
    convert: Callable[[dict[str, Tensor], str, argparse.Namespace], Output]


DIRECTIONS = (
    Direction("proposal_generator.", "detectron2", "convmae", to_convmae),
    Direction("rpn_head.rpn_cls.", "mmdet", "convmae", mmdet_to_convmae),
    Direction("rpn.head.", "convmae", "detectron2", to_detectron2),
    Direction("rpn.head.", "convmae", "mmdet", to_mmdet),
)


def find_direction(names: Iterable[str], source: str, to: str) -> tuple[Direction, str]:
    """Returns the conversion for a file of these names, and the prefix of the names ("module.", say).

    Raises UserError for a layout that isn't known, and for one that can't be turned into the wanted.
    """
    names = list(names)
    known = [
        (direction, match[1])
        for direction in DIRECTIONS
        for name in names
        if (match := re.match(rf"((?:\w+\.)*?){re.escape(direction.mark)}", name))
    ]
    if not known and any("decode_head." in name for name in names):
        raise UserError(
            f"{source} holds a segmenter, whose names are the same in mmseg and here: tools/test_seg.py takes the file as it "
            "is, and mmseg takes a run's model.pth (docs/mmsegmentation.md)."
        )
    if not known:
        marks = " or ".join(dict.fromkeys(f"{direction.mark}* ({direction.layout})" for direction in DIRECTIONS))
        raise UserError(
            f"{source} can't be converted: found {', '.join(names[:4])}, ...; expected a name like {marks}."
        )
    fitting = [found for found in known if found[0].to == to]
    if not fitting:
        raise UserError(f"{source} has the layout of {known[0][0].layout}, which can't be turned into that of {to}.")
    return fitting[0]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str], str]:
    """Returns a file's tensors by name, the names of what is none, and where they were found."""
    content, source = read_weights(path)
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, (np.ndarray, np.generic)):
            tensors[name] = _from_numpy(np.asarray(value), f"{source}: {name}")
        elif isinstance(value, Tensor):
            tensors[name] = value.detach()
    return tensors, [name for name in content if name not in tensors], source


def _from_numpy(value: np.ndarray[Any, Any], where: str) -> Tensor:
    try:
        return torch.as_tensor(np.ascontiguousarray(value)).reshape(value.shape)
    except (TypeError, ValueError):
        raise UserError(f"{where} is an array of {value.dtype}, which no tensor holds; expected numbers.") from None


def convert(args: argparse.Namespace) -> None:
    """Reads, converts and writes a file, and prints what became of every name in it."""
    state, others, source = read_tensors(args.weights)
    direction, prefix = find_direction(state, source, args.to)
    print(f"{source}: layout of {direction.layout}, {len(state)} tensors" + (f", prefix '{prefix}'" if prefix else ""))
    state = {name.removeprefix(prefix): value for name, value in state.items()}
    converted, hint, recipe, meta = direction.convert(state, source, args)
    left = {**converted.left, "are no tensors": others}
    carried = len(state) - sum(map(len, converted.left.values()))
    print(f"{carried} carried, {sum(map(len, left.values()))} left behind, {len(converted.state) - carried} added")
    for reason, names in left.items():
        if names:
            print(visible(f"  these {reason}: {', '.join(names)}"))
    save_weights(converted.state, args.output, recipe, meta)
    print(f"written: {args.output}, layout of {args.to}, {len(converted.state)} tensors")
    print(hint)
