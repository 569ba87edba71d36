"""Whether several processes train what one does on the same batches, and runs leave alone what is frozen."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import forked
from torch import Tensor

from convmae.engine.seeding import INIT, seed_all
from convmae.engine.training.checkpoints import latest_checkpoint
from convmae.engine.training.scalars import read_scalars


def assert_processes_equal_one(train: Callable[[Path], Any], folder: Path, world: int = 2) -> None:
    """Calls ``train(work_dir)`` in one process and in ``world``: all losses and weights are to be equal but for rounding.

    Where a gradient is all but zero, AdamW makes its sign a step of full length: few weights may be as far apart as that.
    """

    def run(work_dir: Path) -> None:
        seed_all(0, INIT)
        train(work_dir)

    one, many = folder / "one", folder / "many"
    for work_dir in (one, many):
        work_dir.mkdir()
    run(one)
    forked(lambda rank: run(many), folder, world)
    rows, others = (read_scalars(work_dir) for work_dir in (one, many))
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        losses = {name: value for name, value in row.items() if "lr" in row and ("loss" in name or "pixels" in name)}
        assert losses or "lr" not in row
        assert {name: other[name] for name in losses} == pytest.approx(losses, abs=1e-5), (row, other)
    length = sum(row.get("lr", 0.0) for row in rows)
    left, right = (torch.load(latest_checkpoint(work_dir), weights_only=True)["state_dict"] for work_dir in (one, many))
    for name, value in left.items():
        apart = (right[name].double() - value.double()).abs()
        assert apart.mean() <= 0.02 * length + 1e-3 * value.abs().double().mean(), (name, apart.mean(), length)


def assert_split_equals_whole(train: Callable[[Path, bool], Any], folder: Path) -> None:
    """Calls ``train(work_dir, shard)`` in two processes, whose model is split or not: all are to be equal within 1e-6.

    And in one process: to that the split run is to be equal within 1e-5.

    But for biases that the next layer takes out again, keys' by softmax, and that before a batch norm: their gradient is
    rounding, of which AdamW makes whole steps.
    """

    def run(rank: int, name: str) -> None:
        seed_all(0, INIT)
        train(folder / name, name == "split")

    for name in ("one", "whole", "split"):
        (folder / name).mkdir()
    run(0, "one")
    for name in ("whole", "split"):
        forked(partial(run, name=name), folder)
    others = read_scalars(folder / "split")
    right = torch.load(latest_checkpoint(folder / "split"), weights_only=True)["state_dict"]
    for known, within in (("whole", 1e-6), ("one", 1e-5)):
        for row, other in zip(read_scalars(folder / known), others, strict=True):
            own = ("seconds", "memory", "waiting", "pictures", *(["decode.acc", "aux.acc"] if known == "one" else []))
            numbers = {name: value for name, value in row.items() if not name.startswith(own)}
            assert {name: other[name] for name in numbers} == pytest.approx(numbers, abs=within), (row, other)
        left = torch.load(latest_checkpoint(folder / known), weights_only=True)["state_dict"]
        assert left.keys() == right.keys()
        for name, value in left.items():
            if name.endswith("fpn.0.bias"):
                continue
            parts = [one.view(3, -1)[::2] if name.endswith("qkv.bias") else one for one in (value, right[name])]
            torch.testing.assert_close(
                *parts, rtol=within, atol=within, msg=lambda said, name=name, known=known: f"{known}, {name}: {said}"
            )


def assert_frozen(
    train: Callable[[Path, int, bool], Any], folder: Path, start: Mapping[str, Tensor], frozen: str
) -> dict[str, Any]:
    """Calls ``train(work_dir, steps, resume)`` for a run in one go and in two: they are to be equal bit for bit.

    What of ``start``, the encoder's weights under the model's names, matches ``frozen`` is to stay as it is and to be known to
    no optimiser or average, all other to be trained. Returns the last checkpoint.
    """
    for name, steps, resume in (("whole", 2, False), ("parts", 1, False), ("parts", 2, True)):
        (folder / name).mkdir(exist_ok=True)
        train(folder / name, steps, resume)
    whole, parts = (torch.load(folder / name / "step_2.pth", weights_only=True) for name in ("whole", "parts"))
    for part in ("state_dict", "average"):
        torch.testing.assert_close(whole.get(part, {}), parts.get(part, {}), rtol=0, atol=0)
    torch.testing.assert_close(whole["optimizer"]["state"], parts["optimizer"]["state"], rtol=0, atol=0)
    weights = whole["state_dict"]
    held = {name for name in start if re.match(frozen, name)}
    trained = [name for group in whole["optimizer"]["param_groups"] for name in group["names"]]
    assert held
    assert not held & set(trained)
    assert len(whole["optimizer"]["state"]) == len(trained)
    if "average" in whole:
        assert whole["average"]["values"].keys() == set(trained)
    for name, value in start.items():
        assert torch.equal(weights[name], value) == (name in held), name
    return whole
