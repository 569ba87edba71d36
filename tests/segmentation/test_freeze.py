"""UPerNet on a frozen stem or encoder: whole runs, in parts, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from equality import assert_frozen
from small_states import prefixed, write_encoder

from convmae.backbones import ConvViTSeg, load_checkpoint
from convmae.engine.errors import UserError
from convmae.engine.seeding import INIT, seed_all
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model
from convmae.segmentation.train import train

MakeConfig = Callable[[], SegmentationConfig]
STEM = r"backbone\.(patch_embed[1-4]\.|blocks[12]\.|pos_embed$)"
ENCODER = r"backbone\.(?!fpn\.)"


@pytest.mark.parametrize(("what", "frozen"), [("stem", STEM), ("encoder", ENCODER)])
def test_what_is_frozen_stays_as_its_weights_have_it(
    what: str, frozen: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    init = write_encoder(tmp_path / "encoder.pth", 32)

    def make(steps: int) -> SegmentationConfig:
        config = tiny_config()
        config.model.freeze, config.model.init, config.model.drop_path = what, str(init), 0.3
        config.schedule.steps, config.schedule.warmup, config.schedule.policy = steps, 0, "constant"
        config.optim.lr = 1e-3
        config.optim.average = 0.9 if what == "encoder" else 0.0
        config.runtime.precision = "bf16" if what == "encoder" else "fp32"
        return config

    def run(work_dir: Path, steps: int, resume: bool) -> None:
        train(make(steps), work_dir, resume)

    seed_all(0, INIT)
    start = build_model(make(2), 3).backbone
    added = {name: value.clone() for name, value in start.state_dict().items() if "relative" in name or "gamma" in name}
    assert isinstance(start, ConvViTSeg)
    load_checkpoint(start, init)
    content = assert_frozen(run, tmp_path, prefixed(start.state_dict(), "backbone."), frozen)
    if what == "encoder":  # it computes what was pretrained: no position bias, and branches as they are
        for name, value in added.items():
            neutral = torch.ones_like(value) if "gamma" in name else torch.zeros_like(value)
            assert torch.equal(content["state_dict"][f"backbone.{name}"], neutral)


def test_random_weights_are_not_frozen(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    config.model.freeze = "stem"
    with pytest.raises(UserError, match=r"model\.freeze is stem and model\.init empty"):
        train(config, tmp_path, resume=False)
