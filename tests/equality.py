"""Whether several processes train what one does on the same batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import forked

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
