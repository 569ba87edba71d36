"""Contents of weight files that are nothing, or nearly weights, for tests of everything that reads them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]
Content = Callable[[State], Any]


def quantised(value: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(value.float().contiguous(), 0.1, 0, torch.qint8)


def sparse(value: Tensor) -> Tensor:
    return value.float().to_sparse()


# What may stand in the place of a tensor.
VALUES: dict[str, Callable[[Tensor], Any]] = {
    "text": lambda value: "0.5",
    "number": lambda value: 0.5,
    "none": lambda value: None,
    "list": lambda value: value.flatten()[:3].tolist(),
    "mapping": lambda value: {"weight": value},
    "tensor of none": lambda value: torch.empty(0),
    "number as a tensor": lambda value: torch.tensor(0.5),
    "no rows": lambda value: torch.empty(0, *value.shape[1:]),
    "rows without sides": lambda value: torch.empty(1 << 40, 0),
    "flat": lambda value: value.flatten(),
    "one more side": lambda value: value[None],
    "one more row": lambda value: torch.cat([value, value[:1]]) if value.ndim and len(value) else value,
    "odd sides": lambda value: torch.ones([side + 1 for side in value.shape]),
    "repeated": lambda value: torch.ones(1).expand(1 << 12, 1 << 8),
    "repeated in its form": lambda value: torch.ones(()).expand((1 << 10, 1 << 5, *[1] * (value.ndim - 2))),
    "strided": lambda value: torch.ones([2 * side for side in value.shape])[tuple(slice(None, None, 2) for _ in value.shape)],
    "no values": lambda value: torch.empty(value.shape, device="meta"),
    "no values, huge": lambda value: torch.empty((1 << 40, *value.shape[1:]), device="meta"),
    "complex": lambda value: value.to(torch.complex64),
    "complex, other rows": lambda value: torch.ones((9, *value.shape[1:]), dtype=torch.complex64),
    "bool": lambda value: value > 0,
    "bytes": lambda value: value.to(torch.int8),
    "large bytes": lambda value: torch.ones((9, *value.shape[1:]), dtype=torch.uint8),
    "eight bits": lambda value: value.float().to(torch.float8_e4m3fn),
    "doubles": lambda value: value.double() * 1e300,
    "not finite": lambda value: torch.full(value.shape, float("nan")),
    "sparse": sparse,
    "quantised": quantised,
}  # fmt: skip


def cycle_at(*keys: str) -> Content:
    def make(state: State) -> Any:
        content: State = {"model": dict(state)}
        holder = content
        for key in keys[:-1]:
            holder = holder.setdefault(key, {})
        holder[keys[-1]] = content
        return content

    return make


def list_of_itself(state: State) -> Any:
    content: list[Any] = [state]
    content.append(content)
    return content


def ladder(state: State) -> Any:
    """A mapping that comes to 2^60 values."""
    content: Any = dict(state)
    for _ in range(60):
        content = {"model": content, "state_dict": content}
    return {"state": content, "module": {"a": content}}


def deep(state: State) -> Any:
    content: Any = dict(state)
    for _ in range(300):
        content = {"x": content}
    return content


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
# What may stand beside the weights, as `meta` or within it.
METAS: dict[str, Any] = {
    "number": 3,
    "list": [1, 2],
    "text": "abc",
    "text of JSON": "[" * 100_000,
    "tensor": torch.ones(3),
    "data number": {"dataset_meta": 3},
    "data list": {"dataset_meta": ["a"]},
    "data text": {"dataset_meta": "abc"},
    "data tensor": {"dataset_meta": torch.ones(2)},
    "classes number": {"dataset_meta": {"classes": 5}},
    "classes text": {"dataset_meta": {"classes": "abc"}},
    "classes tensor": {"dataset_meta": {"classes": torch.ones(5)}},
    "classes of lists": {"dataset_meta": {"classes": [["a"], None]}},
    "classes of tensors": {"dataset_meta": {"classes": [torch.ones(2)] * 3}},
    "classes none": {"dataset_meta": {"classes": None, "folders": None}},
    "folders mapping": {"dataset_meta": {"folders": {"a": 1}}},
    "CLASSES number": {"CLASSES": 7},
    "CLASSES mixed": {"CLASSES": ["a", 1, 2.5]},
    "many": {"dataset_meta": {"classes": ["a"] * 100_001}},
    "steps": {"step": -1, "value": "high", "metric": [1]},
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "number": 3,
    "list": ["a", "b"],
    "mapping": {"model": {"size": "tiny"}},
    "tensor": torch.ones(3),
    "bomb": BOMB,
    "no yaml": "{[",
    "long": "a: " + "x" * 1_000_000,
    "list as text": "- a\n- b\n",
    "integer keys": "1: 2\nmodel: {3: 4}\n",
    "model number": "model: 3\ndata: 4\n",
    "model list": "model: [1, 2]\ndata: [a]\ntargets: x\n",
    "model none": "model:\ndata:\nruntime:\n",
    "odd types": "model: {size: [1], img_size: {a: b}, init: 3}\ndata: {max_pixels: many, range: [a, b]}\n",
    "odd numbers": "model: {img_size: -5}\ndata: {max_pixels: .nan, img_size: 1e400}\n",
    "method": "model: {method: 7}\n",
    "looked up": "model: {size: '${oc.env:HOME}'}\n",
    "itself": "&a [*a]\n",
    "tags": "!!python/object/apply:os.system ['true']\n",
}
CONTENTS: dict[str, Content] = {
    "list": lambda state: list(state.values()),
    "tuple": lambda state: tuple(state.items()),
    "tensor": lambda state: torch.ones(3),
    "number": lambda state: 3,
    "text": lambda state: "weights",
    "none": lambda state: None,
    "nothing": lambda state: {},
    "model number": lambda state: {"model": 5},
    "model text": lambda state: {"model": "model"},
    "model list": lambda state: {"model": [1, torch.ones(2)]},
    "model nothing": lambda state: {"model": {}, "state_dict": None},
    "integer keys": lambda state: dict(enumerate(state.values())),
    "integer keys below": lambda state: {"state_dict": dict(enumerate(state.values()))},
    "mixed keys": lambda state: {**state, 3: torch.ones(2), None: torch.ones(1), (1, 2): torch.ones(2), b"a": torch.ones(1)},
    "long names": lambda state: {**state, "a." * 100_000: torch.ones(2)},
    "unicode names": lambda state: {**state, "\ud800": torch.ones(2), "a\n\0b.\u202ec": torch.ones(1), "": torch.ones(1)},
    "holds itself": cycle_at("model", "model"),
    "holds itself at the top": cycle_at("state_dict"),
    "holds itself in meta": cycle_at("meta", "dataset_meta", "classes"),
    "holds itself in average": cycle_at("average", "values"),
    "holds itself in a list": list_of_itself,
    "ladder": ladder,
    "deep": deep,
    **{
        f"average is {name}": lambda state, average=average: {"state_dict": state, "average": average}
        for name, average in {
            "number": 3,
            "list": [1],
            "values number": {"steps": 1, "values": 5},
            "of other names": {"steps": 1, "values": {"x": torch.ones(2), 3: torch.ones(1)}},
            "of texts": {"steps": "1", "values": {"a": "b"}},
        }.items()
    },
    "average of other shapes": lambda state: {
        "state_dict": state, "average": {"steps": 1, "values": {name: torch.ones(3, 1, 7) for name in state}},
    },
    **{f"meta is {name}": lambda state, meta=meta: {"model": state, "meta": meta} for name, meta in METAS.items()},
    **{f"config is {name}": lambda state, it=config: {"model": state, "config": it} for name, config in CONFIGS.items()},
    **{f"all {name}": lambda state, change=change: {"model": _all(state, change)} for name, change in VALUES.items()},
}  # fmt: skip


def _all(state: State, change: Callable[[Tensor], Any]) -> State:
    return {
        name: change(value) if isinstance(value, Tensor) and value.ndim > 1 else value for name, value in state.items()
    }


def changed(state: State, name: str, change: Callable[[Tensor], Any]) -> Any:
    """Returns a file's content with one other value."""
    return {"model": {**state, name: change(state[name])}, "meta": {}}


def safetensors_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Returns a safetensors file of any header (what it says, or its bytes), and the length of it that it claims."""
    said = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(said) if length is None else length).to_bytes(8, "little") + said + data


def tensor_entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


SAFETENSORS: dict[str, bytes] = {
    "claims 64 GiB": safetensors_file({"a": tensor_entry(shape=[1 << 34], offsets=[0, 1 << 36])}),
    "shape of more": safetensors_file({"a": tensor_entry(shape=[1 << 34])}, bytes(4)),
    "overflow": safetensors_file({"a": tensor_entry(shape=[1 << 62, 1 << 62])}, bytes(4)),
    "header of 90 MB": safetensors_file(b"{}", length=90_000_000),
    "header of 2^60": safetensors_file(b"{}", length=1 << 60),
    "overlapping": safetensors_file({"a": tensor_entry(), "b": tensor_entry()}, bytes(8)),
    "gap": safetensors_file({"a": tensor_entry(offsets=[4, 8])}, bytes(8)),
    "backwards": safetensors_file({"a": tensor_entry(offsets=[4, 0])}, bytes(8)),
    "negative": safetensors_file({"a": tensor_entry(shape=[-1])}, bytes(8)),
    "floats": safetensors_file({"a": tensor_entry(shape=[1.0])}, bytes(8)),
    "unknown dtype": safetensors_file({"a": tensor_entry("F12")}, bytes(4)),
    **{
        f"dtype {dtype}": safetensors_file({"a": tensor_entry(dtype, [8], [0, size])}, bytes(size))
        for dtype, size in (("F4", 4), ("F6_E2M3", 6), ("F8_E8M0", 8), ("F8_E5M2", 8), ("C64", 64), ("U64", 64), ("BOOL", 8))
    },
    "metadata list": safetensors_file({"__metadata__": [1], "a": tensor_entry()}, bytes(4)),
    "metadata number": safetensors_file({"__metadata__": {"config": 3}, "a": tensor_entry()}, bytes(4)),
    **{
        f"{key} {name}": safetensors_file({"__metadata__": {key: text}, "a": tensor_entry()}, bytes(4))
        for key, texts in {
            "config": {name: text for name, text in CONFIGS.items() if isinstance(text, str)},
            "meta": {
                "deep": "[" * 100_000, "long number": "1" * 10_000, "none": "{", "nan": "NaN",
                **{name: json.dumps(meta) for name, meta in METAS.items() if "tensor" not in name},
            },
        }.items()
        for name, text in texts.items()
    },
    "names twice": safetensors_file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                                    b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "deep header": safetensors_file(b'{"a":' + b"[" * 100_000),
    "no utf-8": safetensors_file(b'{"a\xff": 1}'),
    "surrogate name": safetensors_file(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "empty": safetensors_file({}),
    "text": b"weights",
}  # fmt: skip


def write_all(
    folder: Path, state: State, names: list[str], kinds: Sequence[str], values: Sequence[str] = tuple(VALUES)
) -> dict[str, Path]:
    """Writes contents around a model's state, and one with each of ``names`` changed; returns the files by what they are."""
    contents = {kind: lambda make=CONTENTS[kind]: make(dict(state)) for kind in kinds}
    contents |= {
        f"{name} {kind}": lambda name=name, change=change: changed(state, name, change)
        for name in names
        for kind, change in VALUES.items()
        if kind in values
    }
    found: dict[str, Path] = {}
    for number, (kind, make) in enumerate(contents.items()):
        found[kind] = folder / f"{number}.pth"
        torch.save(make(), found[kind])
    return found
