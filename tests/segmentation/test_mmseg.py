"""mmseg's own tools train, evaluate and read ConvViTSeg by the shipped config, and take this project's weights as they are."""

import json
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmseg.apis import inference_model, init_model
from mmseg.registry import MODELS, PARAM_SCHEDULERS
from PIL import Image

from convmae import backbones
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.training.optim import param_groups
from convmae.engine.training.schedule import Schedule
from convmae.segmentation.backbone import ConvViTSeg
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model
from convmae.segmentation.train import test as run_test
from convmae.segmentation.train import train

MakeConfig = Callable[[], SegmentationConfig]

RECIPE = str(resources.files("convmae.configs") / "mmseg_upernet_convmae_160k_ade20k.py")
TOOLS = Path(mmseg.__file__).parent / ".mim" / "tools"
CLASSES, CHANNELS, CROP = 3, 16, 80
WIDTHS = [64, 128, 256, 256]


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    """Registry names are looked up in mmseg, as its tools make sure."""
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def small(ade_root: Path) -> dict[str, Any]:
    """What makes the shipped config small enough for a test, as --cfg-options gives it."""
    options: dict[str, Any] = {
        "randomness.seed": 0,
        "model.data_preprocessor.size": (CROP, CROP),
        "model.backbone.size": "tiny",
        "model.backbone.img_size": CROP,
        "model.test_cfg.crop_size": (CROP, CROP),
        "model.test_cfg.stride": (53, 53),
        "model.decode_head.in_channels": WIDTHS,
        "model.auxiliary_head.in_channels": WIDTHS[2],
        "test_pipeline.1.scale": (160, CROP),
        "train_dataloader.dataset.pipeline.2.scale": (160, CROP),
        "train_dataloader.dataset.pipeline.3.crop_size": (CROP, CROP),
        "train_cfg.max_iters": 2,
        "train_cfg.val_interval": 2,
        "param_scheduler.0.end": 1,
        "param_scheduler.1.begin": 1,
        "param_scheduler.1.end": 2,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.logger.interval": 1,
    }
    for head in ("decode_head", "auxiliary_head"):
        options |= {f"model.{head}.channels": CHANNELS, f"model.{head}.num_classes": CLASSES}
    for split in ("train", "val", "test"):
        dataset = f"{split}_dataloader.dataset"
        options |= {
            f"{split}_dataloader.num_workers": 0,
            f"{split}_dataloader.persistent_workers": False,
            f"{dataset}.type": "BaseSegDataset",  # mmseg's own ADE20K has 150 classes
            f"{dataset}.reduce_zero_label": True,
            f"{dataset}.data_root": str(ade_root),
            f"{dataset}.metainfo.classes": ("square", "stripe", "dot"),
            f"{dataset}.metainfo.palette": [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        }
        if split != "train":
            options[f"{dataset}.pipeline.1.scale"] = (160, CROP)
    return options


def recipe(ade_root: Path | None = None) -> Config:
    config = Config.fromfile(RECIPE)
    if ade_root is not None:
        config.merge_from_dict(small(ade_root))
    return config


def run_tool(name: str, *argv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs one of mmseg's own tools."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *argv])
    monkeypatch.setenv("LOCAL_RANK", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(TOOLS / f"{name}.py"), run_name="__main__")


def test_the_recipe_says_what_ours_does() -> None:
    theirs, ours = recipe(), load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml")
    assert theirs.train_cfg.max_iters == ours.schedule.steps
    assert theirs.train_cfg.val_interval == ours.schedule.eval_every
    assert (theirs.optim_wrapper.optimizer.lr, theirs.optim_wrapper.optimizer.weight_decay) == (
        ours.optim.lr,
        ours.optim.weight_decay,
    )
    assert tuple(theirs.optim_wrapper.optimizer.betas) == tuple(ours.optim.betas)
    assert theirs.train_dataloader.batch_size * 8 == ours.data.batch_size
    resized, crop, flip = theirs.train_dataloader.dataset.pipeline[2:5]
    assert (list(resized.scale), list(resized.ratio_range)) == (ours.data.scale, ours.data.ratio_range)
    assert (crop.crop_size, crop.cat_max_ratio, flip.prob) == ((512, 512), ours.data.cat_max_ratio, ours.data.flip)
    assert list(theirs.val_dataloader.dataset.pipeline[1].scale) == ours.data.scale
    window = theirs.model.test_cfg
    assert (window.mode, window.crop_size[0], window.stride[0]) == (
        ours.inference.mode,
        ours.inference.crop,
        ours.inference.stride,
    )
    ours.runtime.device = "cpu"
    with torch.device("meta"):
        mine, model = build_model(ours, 150), MODELS.build(theirs.model)
    shapes = {name: value.shape for name, value in mine.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    for name in ("decode_head", "auxiliary_head"):
        found, wanted = getattr(model, name), getattr(mine, name)
        assert found.loss_decode.loss_weight == wanted.loss_decode.loss_weight
        assert found.dropout.p == wanted.dropout.p
    for name in ("mean", "std"):
        torch.testing.assert_close(
            getattr(model.data_preprocessor, name), getattr(mine.data_preprocessor, name), check_device=False
        )
    rates = [block.drop_path.rate for block in mine.backbone.blocks3]
    assert [block.drop_path.rate for block in model.backbone.blocks3] == rates


def test_the_learning_rate_is_that_of_our_schedule() -> None:
    ours = load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml").schedule
    theirs = recipe().param_scheduler
    assert (theirs[0].end, theirs[1].begin, theirs[1].end) == (ours.warmup, ours.warmup, ours.steps)
    ours.steps, ours.warmup = 2000, 400
    theirs[0].end = theirs[1].begin = 400
    theirs[1].end = 2000
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)
    schedulers = [PARAM_SCHEDULERS.build({**one, "optimizer": optimizer}) for one in theirs]
    schedule = Schedule.build(ours, 100, 16)
    for step in range(2000):  # mmengine counts the steps of a phase but one, so it is one step ahead in the end
        assert optimizer.param_groups[0]["lr"] == pytest.approx(schedule.lr_factor(step), abs=1 / 399), step
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_layer_decay_groups_are_ours(ade_root: Path, tiny_config: MakeConfig) -> None:
    theirs = recipe(ade_root)
    model = MODELS.build(theirs.model)
    wrapper = build_optim_wrapper(model, theirs.optim_wrapper)
    config = tiny_config()
    wanted = param_groups(model, config.optim)
    assert config.optim.layer_decay == 0.75
    found = wrapper.optimizer.param_groups
    assert len(found) == len(wanted) > 10
    for group, expected in zip(found, wanted, strict=True):
        assert group["names"] == expected["names"]
        assert group["weight_decay"] == expected["weight_decay"]
        assert group["lr"] == pytest.approx(1e-4 * expected["lr_scale"])


@pytest.mark.parametrize("decay", [None, 0.05])
def test_vectors_are_not_decayed_without_options_of_the_groups(
    ade_root: Path, tiny_config: MakeConfig, decay: float | None
) -> None:
    theirs = recipe(ade_root).optim_wrapper
    del theirs["paramwise_cfg"]
    theirs.optimizer = {"type": "AdamW", "lr": 1e-4, **({} if decay is None else {"weight_decay": decay})}
    groups = build_optim_wrapper(build_model(tiny_config(), 3), theirs).optimizer.param_groups
    expected = 0.01 if decay is None else decay  # AdamW's own
    assert {group["weight_decay"] for group in groups} == {0.0, expected}
    for group in groups:
        if group["weight_decay"]:
            assert all(parameter.ndim > 1 for parameter in group["params"])


def test_an_unknown_option_of_the_groups_is_refused(ade_root: Path) -> None:
    theirs = recipe(ade_root)
    theirs.optim_wrapper.paramwise_cfg = {"layer_decay_rate": 0.75}
    with pytest.raises(TypeError, match="layer_decay_rate"):
        build_optim_wrapper(MODELS.build(theirs.model), theirs.optim_wrapper)


def test_pretrained_weights_start_the_backbone(tmp_path: Path) -> None:
    encoder = backbones.ConvViT("tiny", num_classes=0, img_size=96)
    torch.save({"model": encoder.state_dict()}, tmp_path / "encoder.pth")
    plain = backbones.ConvViTSeg("tiny", img_size=CROP)
    backbones.load_checkpoint(plain, tmp_path / "encoder.pth")
    model = ConvViTSeg("tiny", img_size=CROP, init=str(tmp_path / "encoder.pth"))
    found = model.state_dict()
    assert found.keys() == plain.state_dict().keys()
    for name, value in encoder.state_dict().items():
        if name in found and name != "pos_embed":
            assert torch.equal(found[name], value), name
    assert torch.equal(found["pos_embed"], plain.pos_embed)
    half = {name: value for name, value in encoder.state_dict().items() if not name.startswith("blocks3.1.")}
    torch.save({"model": half}, tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"half\.pth leaves .* unfilled \(blocks3\.1\."):
        ConvViTSeg("tiny", img_size=CROP, init=str(tmp_path / "half.pth"))
    frozen = ConvViTSeg("tiny", img_size=CROP, init=str(tmp_path / "encoder.pth"), freeze="encoder")
    learning = {name.partition(".")[0] for name, value in frozen.named_parameters() if value.requires_grad}
    assert learning == set(frozen.added)
    with pytest.raises(UserError, match="freeze of the backbone is encoder and its init empty"):
        ConvViTSeg("tiny", img_size=CROP, freeze="encoder")


def test_mmsegs_tools_train_and_evaluate_and_ours_reads_their_checkpoint(
    ade_root: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, work_dir = str(tmp_path / "small.py"), tmp_path / "theirs"
    recipe(ade_root).dump(theirs)
    run_tool("train", theirs, "--work-dir", str(work_dir), monkeypatch=monkeypatch)
    (path,) = work_dir.glob("*/vis_data/scalars.json")
    *steps, evaluated = [json.loads(line) for line in path.read_text().splitlines()]
    assert [0 < row["loss"] < 20 for row in steps] == [True, True]
    checkpoint = work_dir / "iter_2.pth"
    run_tool("test", theirs, str(checkpoint), "--work-dir", str(tmp_path / "again"), monkeypatch=monkeypatch)
    (path,) = (tmp_path / "again").glob("*/*.json")
    assert json.loads(path.read_text())["mIoU"] == pytest.approx(evaluated["mIoU"])

    config = tiny_config()
    config.data.crop = config.inference.crop = CROP
    config.inference.stride, config.data.scale = 53, [160, CROP]
    (tmp_path / "ours").mkdir()
    found = run_test(config, checkpoint, tmp_path / "ours")
    for name in ("mIoU", "aAcc"):  # mmseg decodes and resizes pictures by another library
        assert 100 * found[name] == pytest.approx(evaluated[name], abs=0.5), name


def test_a_run_of_ours_is_read_by_mmseg_as_it_is(ade_root: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    config.data.crop = config.inference.crop = CROP
    config.inference.stride, config.data.scale = 53, [160, CROP]
    config.schedule.steps = 1
    config.schedule.warmup = 0
    train(config, tmp_path, resume=False)
    theirs = recipe(ade_root)
    model = init_model(theirs, str(tmp_path / "model.pth"), device="cpu")
    assert list(model.dataset_meta["classes"]) == ["square", "stripe", "dot"]
    ours = build_model(config, CLASSES).eval()
    ours.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True)["state_dict"])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in ours.state_dict().items())
    path = next((ade_root / "images" / "validation").iterdir())
    label = inference_model(model, str(path)).pred_sem_seg.data
    picture = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    with torch.inference_mode():
        (sample,) = ours.predict(ours.data_preprocessor({"inputs": [picture]})["inputs"])
    assert label.unique().numel() > 1
    assert (sample.pred_sem_seg.data == label).float().mean() > 0.99
