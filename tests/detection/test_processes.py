"""Two processes detect as one does: sampled boxes, counts in losses, batch norm, pictures without objects."""

from functools import partial
from pathlib import Path

import pytest
from equality import assert_processes_equal_one, assert_split_equals_whole
from tiny_detector import tiny_config

from convmae.detection.train import train


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.batch_size=4", "data.accumulate=2", "model.box_convs=[8]"],
        ["data.batch_size=4", "model.cascade=true", "model.box_convs=[8]"],
        ["data.batch_size=2"],  # a process has the picture without objects, whose mask head normalises nothing
    ],
)
def test_two_processes_equal_one(overrides: list[str], split: Path, tmp_path: Path) -> None:
    # Two steps, before rounding turns the order of two equally sure proposals round.
    options = ["schedule.steps=2", "runtime.log_every=1", "model.drop_path=0.2", "model.norm=syncbn"]
    config = tiny_config(split, *options, *overrides)
    assert_processes_equal_one(partial(train, config, resume=False), tmp_path)


def test_a_split_model_equals_a_whole_one(split: Path, tmp_path: Path) -> None:
    def trained(work_dir: Path, shard: bool) -> None:
        options = ["schedule.steps=2", "runtime.log_every=1", "model.drop_path=0.2", "model.norm=syncbn"]
        config = tiny_config(split, *options, "data.batch_size=4", "model.box_convs=[8]", f"runtime.shard={shard}")
        train(config, work_dir, resume=False)

    assert_split_equals_whole(trained, tmp_path)
