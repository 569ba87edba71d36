"""From a module to an ONNX file: traced, named, with what a reader has to know in its metadata; and back as a session."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convmae.engine.errors import UserError

PACKAGES = ("onnx", "onnxruntime")
OPSETS = range(18, 21)  # the first with what resizes pictures as Pillow does, the last that PyTorch traces to


class Ports(NamedTuple):
    """A graph's input and outputs by name, each with the names of its dimensions that are free."""

    input: str
    free: dict[int, str]
    outputs: dict[str, dict[int, str]]


def check_packages() -> None:
    """Raises UserError where a package that export needs is missing."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"Export needs {' and '.join(missing)}: pip install {' '.join(PACKAGES)}")


def write_graph(
    module: nn.Module, example: Tensor, ports: Ports, path: Path, opset: int, meta: Mapping[str, Any]
) -> None:
    """Writes a module as it computes on pictures like ``example``; ``meta`` becomes the file's metadata, as JSON but for text.

    It is traced: sizes that Python code compares are those of the example, sizes that it computes with are the picture's.

    Raises UserError naming the operator that ONNX lacks.
    """
    import onnx

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of every size that is compared, and of a newer way, which can't compare any
            torch.onnx.export(
                module.eval(),
                (example,),
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=[ports.input],
                output_names=list(ports.outputs),
                dynamic_axes={ports.input: ports.free, **ports.outputs},
            )
    except (torch.onnx.errors.OnnxExporterError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"The model can't be exported: {reason} Try another --opset.") from error
    graph = onnx.load(path)
    onnx.helper.set_model_props(
        graph, {key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()}
    )
    onnx.save(graph, path)


def check_one_view(scales: Sequence[float], flip: bool) -> None:
    """Raises UserError for a recipe that merges several views of a picture, which a graph does not."""
    if list(scales) != [1.0] or flip:
        raise UserError(
            f"The recipe merges several views (inference.scales={list(scales)}, inference.flip={flip}); a graph has one: "
            "--cfg-options inference.scales=[1.0] inference.flip=false."
        )


def read_meta(path: Path) -> dict[str, str]:
    """Returns a graph's metadata."""
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


def common_meta(task: str, classes: Iterable[str], config: str, pixels: str) -> dict[str, Any]:
    """Returns the metadata of all graphs: what it is of, its classes, its recipe as YAML, and how pixels come in."""
    try:
        ours = version("convmae")
    except PackageNotFoundError:  # run from a folder
        ours = "unknown"
    named = {"task": task, "classes": list(classes), "recipe": config, "pixels": pixels, "convmae_version": ours}
    return {key: value for key, value in named.items() if value}


def open_session(path: Path, threads: int = 0) -> Any:
    """Returns the session that runs a graph on the CPU; of 0 threads onnxruntime takes as many as there are cores."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), _options(threads), providers=["CPUExecutionProvider"])


def open_inside(path: Path, kind: str, inputs: int) -> Any:
    """Returns a session whose outputs are the first inputs of each node of one kind, in their order."""
    import onnx
    import onnxruntime

    graph = onnx.load(path)
    names = [name for node in graph.graph.node if node.op_type == kind for name in node.input[:inputs]]
    del graph.graph.output[:]
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return onnxruntime.InferenceSession(graph.SerializeToString(), _options(0), providers=["CPUExecutionProvider"])


def run(session: Any, pixels: Any) -> list[Any]:
    """Returns the graph's outputs for its one input. Raises UserError where the runtime fails."""
    try:
        found: list[Any] = session.run(None, {session.get_inputs()[0].name: pixels})
    except Exception as error:  # onnxruntime's errors share no class but this
        reason = str(error).split("\n")[0]
        raise UserError(f"onnxruntime can't run the graph on {tuple(pixels.shape)}: {reason}") from error
    return found


def check_shapes(names: Sequence[str], expected: Sequence[Any], found: Sequence[Any], size: str) -> None:
    """Raises UserError where the graph's outputs have other shapes than PyTorch's."""
    for name, ours, theirs in zip(names, expected, found, strict=True):
        if tuple(ours.shape) != tuple(theirs.shape):
            raise UserError(
                f"At {size} the graph returns {name} of shape {tuple(theirs.shape)}, PyTorch {tuple(ours.shape)}; "
                "nothing is written."
            )


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # no warnings of shapes that it can't tell beforehand
    return options
