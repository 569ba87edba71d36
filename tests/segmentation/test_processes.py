"""Two processes segment as one does: batch norm and losses count the pictures of both."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from equality import assert_processes_equal_one, assert_split_equals_whole

from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.train import train


def test_two_processes_equal_one(tiny_config: Callable[[], SegmentationConfig], tmp_path: Path) -> None:
    config = tiny_config()
    config.data.batch_size, config.data.accumulate = 4, 2  # a picture at a time: pooled to a value, and normalised
    config.schedule.steps, config.runtime.log_every, config.optim.lr = 3, 1, 1e-4
    config.loss.ohem, config.loss.balance = 0.7, True
    config.model.drop_path = 0.2
    assert_processes_equal_one(partial(train, config, resume=False), tmp_path)


def test_a_split_model_equals_a_whole_one(tiny_config: Callable[[], SegmentationConfig], tmp_path: Path) -> None:
    def trained(work_dir: Path, shard: bool) -> None:
        config = tiny_config()
        config.data.batch_size, config.schedule.steps, config.runtime.log_every = 4, 2, 1
        config.optim.lr, config.model.drop_path, config.runtime.shard = 1e-4, 0.2, shard
        train(config, work_dir, resume=False)

    assert_split_equals_whole(trained, tmp_path)
