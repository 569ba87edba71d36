"""A graph in fp16 or int8: the network's products alone, as coordinates, sizes and suppression need fp32."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "fp16", "int8")
# By the modules' names, with which the tracer names nodes: encoder, pyramid and heads, but not what pools for them.
_NETWORK = re.compile(
    r"/(backbone|blocks\w*|patch_embed\w*|fpn|decode_head|head|box_head|box_predictor|mask_head|mask_predictor)[/.]"
)
_MASKS = re.compile(r"/mask_")  # of no box, maybe: there is nothing then to calibrate on
_WEIGHED = ("MatMul", "Conv", "Gemm")


def convert(source: Path, target: Path, precision: str, pictures: Iterable[Any], input_name: str) -> str:
    """Writes a graph in another precision, and returns what was done; without ``pictures`` int8 is dynamic."""
    with _quiet():
        if precision == "fp16":
            return _to_fp16(source, target)
        arrays = list(pictures)
        return _to_int8_static(source, target, arrays, input_name) if arrays else _to_int8_dynamic(source, target)


def _to_fp16(source: Path, target: Path) -> str:
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    graph = onnx.load(source)
    apart = [node.name for node in graph.graph.node if not _NETWORK.search(node.name)]
    # Resize has its sizes and scales in fp32; what is computed beside the network stays as it is.
    kept = [*DEFAULT_OP_BLOCK_LIST, "Resize"]
    _leave_out_empty(graph.graph)
    half = convert_float_to_float16(graph, keep_io_types=True, op_block_list=kept, node_block_list=apart)
    onnx.save(half, target)
    return "weights and products of encoder and heads in fp16"


def _leave_out_empty(graph: Any) -> None:
    """Drops inputs of Resize that are empty tensors: the conversion would make them tensors of which the runtime asks sense."""
    import onnx

    constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    constants |= {one.name: one for one in graph.initializer}
    empty = {name for name, value in constants.items() if not onnx.numpy_helper.to_array(value).size}
    for node in graph.node:
        if node.op_type == "Resize":
            node.input[:] = ["" if name in empty else name for name in node.input]


def _to_int8_dynamic(source: Path, target: Path) -> str:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=_weighed(source, ("MatMul",)),
    )
    return "weights of linear layers in int8, their inputs as they come (dynamic)"


def _to_int8_static(source: Path, target: Path, arrays: list[Any], input_name: str) -> str:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(arrays)

        def get_next(self) -> dict[str, Any] | None:
            array = next(self.rest, None)
            return None if array is None else {input_name: array}

    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(_WEIGHED),  # else every tensor is calibrated, those of proposals and masks too
        nodes_to_quantize=[name for name in _weighed(source, _WEIGHED) if not _MASKS.search(name)],
    )
    return (
        f"weights and inputs of linear layers and convolutions in int8, calibrated on {len(arrays)} pictures (static)"
    )


def _weighed(source: Path, kinds: tuple[str, ...]) -> list[str]:
    """The network's nodes whose second input is a weight."""
    import onnx

    graph = onnx.load(source).graph
    weights = {one.name for one in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in kinds and _NETWORK.search(node.name) and node.input[1] in weights
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without advice on how quantization could be prepared, and lines on every constant too small for fp16."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
