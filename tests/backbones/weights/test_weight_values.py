"""Weights that can't be meant are refused by name; floats of every width are loaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convmae.backbones import CheckpointError, load_checkpoint

State = dict[str, Tensor]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def state() -> State:
    generator = torch.Generator().manual_seed(1)
    values = small().state_dict()
    return {n: v + torch.rand(v.shape, generator=generator) if v.is_floating_point() else v for n, v in values.items()}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda given: given | {name: change(given[name].clone())}


def with_value(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return change


def quantized(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


REFUSED: dict[str, tuple[Callable[[State], State], str]] = {
    "bytes": (changed("2.weight", lambda v: (v * 50).to(torch.int8)), r"2\.weight is int8; expected floats"),
    "truth values": (changed("0.bias", lambda v: v > 0.5), r"0\.bias is bool"),
    "whole numbers": (changed("2.bias", lambda v: v.long()), r"2\.bias is int64"),
    "complex": (changed("0.weight", lambda v: v.to(torch.complex64)), r"0\.weight is complex64"),
    "quantised by PyTorch": (changed("2.weight", quantized), "has quantised tensors"),
    "eight bits and a scale": (
        lambda given: (
            given | {"2.weight": given["2.weight"].to(torch.float8_e4m3fn), "2.weight_scale": torch.tensor(0.1)}
        ),
        r"2\.weight is float8_e4m3fn",
    ),
    "all bytes": (
        lambda given: {n: v.to(torch.int8) if v.ndim == 2 else v for n, v in given.items()},
        r"0\.weight is int8 \(2 such tensors\)",
    ),
    "not a number": (
        changed("2.weight", with_value(float("nan"))),
        r"2\.weight holds 1 of 8 values that are not finite",
    ),
    "infinite": (changed("0.bias", with_value(float("-inf"))), r"0\.bias holds 1 of 4 values"),
    "infinite in half precision": (
        lambda given: {n: (v * 1e6).half() if v.is_floating_point() else v for n, v in given.items()},
        r"0\.weight holds \d+ of 12 values that are not finite \(\d such tensors\)",
    ),
    "a double that the model can't hold": (
        lambda given: changed("2.weight", with_value(1e300))({n: v.double() for n, v in given.items()}),
        r"2\.weight holds 1 of 8 values that are not finite",
    ),
    "infinite in a statistic": (changed("1.running_mean", with_value(float("inf"))), r"1\.running_mean holds"),
    "a negative variance": (changed("1.running_var", with_value(-0.5)), r"1\.running_var holds a variance of -0\.5"),
    "shapes alone": (
        lambda given: {n: torch.empty_like(v, device="meta") for n, v in given.items()},
        r"0\.weight is of the shape \[4, 3\] and has no values \(\d such tensors\)",
    ),
    "nothing written": (
        lambda given: {n: torch.zeros_like(v) for n, v in given.items()},
        "its 2 weight matrices hold zeros alone",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_values_that_no_trained_model_has_are_refused(kind: str, tmp_path: Path) -> None:
    change, words = REFUSED[kind]
    model, path = small(), tmp_path / "100%s.pth"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save({"model": change(state())}, path)
    with pytest.raises(CheckpointError, match=words) as said:
        load_checkpoint(model, path)
    assert str(path) in str(said.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_floats_of_every_width_are_loaded(dtype: torch.dtype, tmp_path: Path) -> None:
    given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state().items()}
    torch.save(given, tmp_path / "a.pth")
    model = small()
    assert not load_checkpoint(model, tmp_path / "a.pth").missing
    assert torch.equal(model[0].weight, given["0.weight"].float())


def test_what_is_not_loaded_may_hold_anything() -> None:
    others = {"decoder.weight": torch.full((2, 2), float("nan")), "2.weight": torch.full((9, 4), float("inf"))}
    report = load_checkpoint(small(), state() | others | {"index": torch.arange(3)})
    assert set(report.unexpected) == {*others, "index"}


def test_layers_that_start_at_zero_may_be_zero() -> None:
    given = state() | {
        "2.weight": torch.zeros(2, 4),
        "2.bias": torch.zeros(2),
        "1.num_batches_tracked": torch.tensor(3.0),
    }
    assert not load_checkpoint(small(), given).missing
