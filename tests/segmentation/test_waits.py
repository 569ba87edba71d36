"""A training step of a segmenter never makes the host wait for a GPU."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from counting import waits_of_step

from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.train import train


@pytest.mark.parametrize("ohem", [0.0, 0.7])
def test_a_step_has_no_wait(
    ohem: float, tiny_config: Callable[[], SegmentationConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    config.loss.ohem, config.loss.balance = ohem, bool(ohem)
    config.data.crop, config.data.batch_size = 44, 4  # larger than the smaller pictures
    config.schedule.steps = config.schedule.save_every = config.runtime.log_every = 6
    config.runtime.precision = "bf16"
    (tmp_path / "run").mkdir()
    assert waits_of_step(partial(train, config, tmp_path / "run", resume=False), monkeypatch) == []
