"""Two processes classify as one does: with mixed and erased pictures, dropped paths and an average of the weights."""

from functools import partial
from pathlib import Path

import pytest
from equality import assert_processes_equal_one, assert_split_equals_whole

from convmae.classification.config import AugmentationOptions, FinetuningConfig, FolderOptions
from convmae.classification.data.mixing import check_pairs
from convmae.classification.train import finetune
from convmae.engine.config import load_config
from convmae.engine.errors import UserError


def config_of(folders: Path, *more: str) -> FinetuningConfig:
    options = [
        f"data.root={folders}", "data.workers=0", "data.batch_size=8", "data.accumulate=2", "model.img_size=32",
        "model.drop_path=0.2", "augment.erase=0.5", "optim.average=0.9", "optim.clip_grad=1.0", "schedule.epochs=null",
        "schedule.steps=3", "schedule.warmup=1", "runtime.log_every=1", "runtime.precision=fp32", "runtime.device=cpu",
    ]  # fmt: skip
    return load_config(FinetuningConfig, "finetune_tiny_96px.yaml", [*options, *more])


def test_two_processes_equal_one(folders: Path, tmp_path: Path) -> None:
    assert_processes_equal_one(partial(finetune, config_of(folders), resume=False), tmp_path)


def test_a_split_model_equals_a_whole_one(folders: Path, tmp_path: Path) -> None:
    def trained(work_dir: Path, shard: bool) -> None:
        finetune(
            config_of(folders, f"runtime.shard={shard}", "runtime.checkpoint_activations=true"), work_dir, resume=False
        )

    assert_split_equals_whole(trained, tmp_path)


@pytest.mark.parametrize(("batch", "accumulate", "world"), [(6, 2, 1), (12, 2, 2), (4, 1, 4)])
def test_parts_of_an_odd_number_have_no_pairs_to_mix(batch: int, accumulate: int, world: int) -> None:
    augment, data = AugmentationOptions(), FolderOptions(batch_size=batch, accumulate=accumulate)
    with pytest.raises(
        UserError, match=rf"{accumulate * world} parts leaves {batch // accumulate // world} pictures? in each"
    ):
        check_pairs(augment, data, world)
    check_pairs(augment, FolderOptions(batch_size=4 * batch, accumulate=accumulate), world)
    check_pairs(augment, FolderOptions(batch_size=batch + 1), 1)  # its last picture stays as it is
    check_pairs(AugmentationOptions(mixup=0, cutmix=0), data, world)
