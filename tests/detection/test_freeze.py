"""Mask R-CNN on a frozen stem or encoder: whole runs, in parts and in two processes, and what is refused."""

import logging
from functools import partial
from pathlib import Path

import pytest
from equality import assert_frozen, assert_processes_equal_one
from small_states import prefixed, write_encoder
from tiny_detector import tiny_config

from convmae.backbones import ConvViTDet, load_checkpoint
from convmae.detection.train import train
from convmae.engine.errors import UserError

STEM = r"model\.backbone\.(patch_embed[1-4]\.|blocks[12]\.|pos_embed$)"
CONSTANT = ("schedule.policy=constant", "schedule.warmup=0", "schedule.save_every=1", "model.drop_path=0.3")


@pytest.mark.parametrize(
    ("what", "frozen", "overrides"),
    [
        ("stem", STEM, ["runtime.precision=bf16", "optim.average=0.9", "runtime.checkpoint_activations=true"]),
        ("encoder", r"model\.backbone\.", ["optim.layer_decay=0.8"]),
        ("encoder", r"model\.backbone\.", ["model.position=decomposed", "model.pyramid=simple", "model.norm=ln"]),
    ],
)
def test_what_is_frozen_stays_as_its_weights_have_it(
    what: str, frozen: str, overrides: list[str], split: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    init = write_encoder(tmp_path / "encoder.pth")
    start = ConvViTDet("tiny", 64, position="decomposed" if "model.position=decomposed" in overrides else "shared")
    load_checkpoint(start, init)  # tables are zero, as pretraining has none

    def run(work_dir: Path, steps: int, resume: bool) -> None:
        options = [f"model.freeze={what}", f"model.init={init}", f"schedule.steps={steps}", *CONSTANT, *overrides]
        train(tiny_config(split, *options), work_dir, resume)

    with caplog.at_level(logging.INFO):
        content = assert_frozen(run, tmp_path, prefixed(start.state_dict(), "model.backbone."), frozen)
    trained = sum(moments["exp_avg"].numel() for moments in content["optimizer"]["state"].values())
    assert f" M parameters ({trained / 1e6:.2f} M trained, " in caplog.text


@pytest.mark.parametrize("what", ["stem", "encoder"])
def test_two_processes_equal_one(what: str, split: Path, tmp_path: Path) -> None:
    init = write_encoder(tmp_path / "encoder.pth")
    options = [
        "schedule.steps=2",
        "runtime.log_every=1",
        "model.drop_path=0.2",
        "model.norm=syncbn",
        "data.batch_size=4",
    ]
    config = tiny_config(split, *options, f"model.freeze={what}", f"model.init={init}")
    assert_processes_equal_one(partial(train, config, resume=False), tmp_path)


def test_random_weights_are_not_frozen(split: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"model\.freeze is encoder and model\.init empty.* expected pretrained weights"
    ):
        train(tiny_config(split, "model.freeze=encoder", "data.root=nowhere"), tmp_path, resume=False)
