"""Whole runs on a handful of pictures: files made, resuming, testing, and mistakes that stop before training."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import two_processes
from PIL import Image

from convmae.backbones import CheckpointError
from convmae.engine.config import load_config, save_config, to_yaml
from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.files import save_weights
from convmae.engine.recipes import shipped_recipes
from convmae.engine.training.optim import scaled_lr
from convmae.engine.training.schedule import Schedule
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model, check_options
from convmae.segmentation.model.weights import check_numbering, read_class_names
from convmae.segmentation.train import test as run_test
from convmae.segmentation.train import train
from convmae.tools.test_seg import main

MakeConfig = Callable[[], SegmentationConfig]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_train_then_test_gives_the_same_scores_and_a_report(
    tiny_config: MakeConfig, tmp_path: Path, precision: str
) -> None:
    config = tiny_config()
    config.runtime.precision = precision
    work_dir, again = tmp_path / "run", tmp_path / "test"
    work_dir.mkdir()
    again.mkdir()
    train(config, work_dir, resume=False)
    metrics = json.loads((work_dir / "metrics.json").read_text())
    assert {"mIoU", "mAcc", "aAcc", "IoU/square", "Acc/dot", "Fscore/dot", "BoundaryF/dot"} <= metrics.keys()
    page = (work_dir / "report/index.html").read_text()
    for text in (
        "mIoU",
        "Confusion matrix",
        "stripe",
        "picture_0.jpg",
        "decode_channels",
        "3 pictures with label maps",
        "boundary F",
        "3 of 3 validation pictures: the 12 worst and best by pixel accuracy",
        "pictures a second",
        "GB, of the whole process",
    ):
        assert text in page
    rerun = run_test(config, work_dir / "model.pth", again)
    assert rerun == {name: pytest.approx(metrics[name]) for name in ("mIoU", "mAcc", "aAcc", "mFscore", "mBoundaryF")}
    batched = tiny_config()
    batched.data.eval_batch_size = 2  # of three pictures
    assert run_test(batched, work_dir / "model.pth", again) == pytest.approx(rerun)
    assert main(["--compare", str(work_dir), str(again)]) == 0
    assert set(json.loads((again / "compare/metrics.json").read_text())) == {"run", "test"}
    checkpoint = torch.load(work_dir / "step_2.pth", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"backbone", "decode_head", "auxiliary_head"}
    assert run_test(config, work_dir / "step_2.pth", again) == rerun
    for name in ("model.pth", "best.pth", "step_2.pth"):
        assert read_class_names(work_dir / name) == ["square", "stripe", "dot"]


def test_two_processes_evaluate_the_model_that_they_write(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    config.data.batch_size = 4
    save_config(config, tmp_path / "recipe.yaml")
    done = two_processes("-m", "convmae.tools.train_seg", "--config", "recipe.yaml", "--work-dir", "two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "one").mkdir()
    run_test(config, tmp_path / "two" / "model.pth", tmp_path / "one")
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one == two


def test_a_finished_run_that_is_resumed_only_reports_again(tiny_config: MakeConfig, tmp_path: Path) -> None:
    train(tiny_config(), tmp_path, resume=False)
    before = json.loads((tmp_path / "metrics.json").read_text())
    (tmp_path / "metrics.json").unlink()
    train(tiny_config(), tmp_path, resume=True)
    assert json.loads((tmp_path / "metrics.json").read_text()) == before


def test_a_run_is_not_continued_on_classes_in_another_order(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    config.schedule.steps, config.schedule.warmup = 1, 0
    train(config, tmp_path, resume=False)
    listing = Path(config.data.root) / "classes.txt"
    listing.write_text("0\tother\n1\tsquare\n2\tdot\n3\tstripe\n")
    config = tiny_config()
    with pytest.raises(UserError, match=r"step_1\.pth was trained on classes with 'stripe' where the data has 'dot'"):
        train(config, tmp_path, resume=True)


def test_balanced_classes_hard_pixels_rare_pictures_and_several_sizes(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    label_map = Path(config.data.root) / "annotations/training/picture_1.png"
    Image.fromarray(np.zeros((40, 48), dtype=np.uint8)).save(label_map)  # one picture has no label at all
    config.model.downsample, config.loss.balance, config.loss.ohem = "max_pool", True, 0.7
    config.data.repeat_rare, config.inference.scales, config.inference.flip = 1.0, [0.5, 1.0], True
    train(config, tmp_path, resume=False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 < metrics["aAcc"] < 1
    assert "4 a picture, scale 0.5, 1, mirrored too" in (tmp_path / "report/index.html").read_text()
    scalars = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["decode.loss_ce"]) for row in scalars if "decode.loss_ce" in row)
    assert run_test(config, tmp_path / "model.pth", tmp_path)["mIoU"] == pytest.approx(metrics["mIoU"])


def test_training_starts_from_pretrained_weights(tiny_config: MakeConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    encoder = build_model(tiny_config(), 3).backbone.state_dict()
    torch.save({"model": encoder}, tmp_path / "encoder.pth")
    config = tiny_config()
    config.model.init, config.optim.lr = str(tmp_path / "encoder.pth"), 0.0
    train(config, tmp_path, resume=False)
    trained = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    assert torch.equal(trained["backbone.blocks1.0.conv1.weight"], encoder["blocks1.0.conv1.weight"])
    half = {name: value for name, value in encoder.items() if not name.startswith("blocks3.1.")}
    torch.save({"model": half}, config.model.init)
    with pytest.raises(UserError, match=r"encoder's tensors unfilled \(blocks3\.1\."):
        train(config, tmp_path / "again", resume=False)


def test_mistakes_stop_before_training(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    config.data.root = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere"):
        train(config, tmp_path, resume=False)
    config = tiny_config()
    path = Path(config.data.root) / "annotations/validation/picture_1.png"
    Image.fromarray(np.full((40, 48), 9, dtype=np.uint8)).save(path)
    with pytest.raises(UserError, match=r"picture_1\.png holds label 9"):
        train(config, tmp_path, resume=False)
    assert not list(tmp_path.glob("step_*.pth"))


def test_another_meaning_of_label_0_than_in_training_is_remarked(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config, trained = tiny_config(), tiny_config()
    state, kind = build_model(config, 3).state_dict(), "numbered otherwise than in training"
    for known, there in ((True, False), (False, True)):
        trained.data.reduce_zero_label = known
        save_weights(state, tmp_path / "model.pth", to_yaml(trained))
        run_test(config, tmp_path / "model.pth", tmp_path)
        page = (tmp_path / "report/index.html").read_text()
        assert (kind in page) is there
        assert ("its first class is label 1 here, and was 0" in page) is there
    save_config(trained, tmp_path / "config.yaml")
    torch.save({"state_dict": state, "config": "no: [YAML"}, tmp_path / "other.pth")
    faults: list[Fault] = []
    check_numbering(tmp_path / "other.pth", config.data, faults.append)
    assert not faults
    torch.save({"state_dict": state}, tmp_path / "step_1.pth")
    check_numbering(tmp_path / "step_1.pth", config.data, faults.append)
    assert len(faults) == 1


def test_weights_of_other_classes_or_another_model_are_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    torch.save({"state_dict": build_model(tiny_config(), 5).state_dict()}, tmp_path / "five.pth")
    with pytest.raises(UserError, match=r"five\.pth.*3 classes"):
        run_test(tiny_config(), tmp_path / "five.pth", tmp_path)
    convolved = build_model(tiny_config(), 3).state_dict()
    torch.save({"state_dict": convolved}, tmp_path / "convolved.pth")
    config = tiny_config()
    config.model.downsample = "max_pool"
    with pytest.raises(UserError, match=r"convolved\.pth makes E4 by a convolution; .*set model\.downsample=conv"):
        run_test(config, tmp_path / "convolved.pth", tmp_path)
    encoder = build_model(tiny_config(), 3).backbone.state_dict()
    torch.save({"model": encoder}, tmp_path / "encoder.pth")
    with pytest.raises(CheckpointError, match=r"encoder\.pth"):
        run_test(tiny_config(), tmp_path / "encoder.pth", tmp_path)


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith("upernet_")])
def test_recipes_load_and_open_with_what_to_expect(name: str) -> None:
    config = load_config(SegmentationConfig, name)
    assert (config.schedule.steps is None) != (config.schedule.epochs is None)
    first = (Path(__file__).parents[2] / "configs" / name).read_text().splitlines()[0]
    assert first.startswith("#")
    check_options(config)


def test_the_paper_recipe() -> None:
    config = load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml")
    assert (config.schedule.steps, config.schedule.warmup, config.schedule.policy) == (160_000, 1500, "poly")
    assert (config.optim.lr, config.optim.weight_decay, config.optim.layer_decay) == (1e-4, 0.05, 0.75)
    assert (config.model.decode_channels, config.model.aux_channels, config.model.aux_weight) == (768, 256, 0.4)
    assert (config.model.drop_path, config.data.batch_size, config.data.crop) == (0.2, 16, 512)
    assert (config.inference.crop, config.inference.stride) == (512, 341)
    assert tuple(config.optim.betas) == (0.9, 0.999)
    assert (config.data.scale, config.data.ratio_range, config.data.cat_max_ratio) == ([2048, 512], [0.5, 2.0], 0.75)
    assert (config.data.flip, config.data.photometric, config.optim.clip_grad) == (0.5, True, 0)
    assert (config.model.pool_scales, config.model.dropout, config.model.downsample) == ([1, 2, 3, 6], 0.1, "conv")


def test_the_rate_of_each_step_is_within_a_hundredth_of_mmsegs_first_version() -> None:
    schedule = Schedule.build(load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml").schedule, 20_210, 16)
    for step in (0, 1, 700, 1499, 1500, 40_000, 159_999):
        warming = 1 - (1 - step / 1500) * (1 - 1e-6) if step < 1500 else 1
        assert schedule.lr_factor(step) == pytest.approx((1 - step / 160_000) * warming, rel=0.01)


def test_one_gpu_trains_with_the_papers_batch_and_rate() -> None:
    paper = load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml")
    single = load_config(SegmentationConfig, "upernet_convmae_160k_ade20k_1gpu.yaml")
    assert (single.data.batch_size, single.data.accumulate) == (16, 4)
    assert scaled_lr(single.optim, single.data) == paper.optim.lr
    assert (single.model, single.schedule, single.inference) == (paper.model, paper.schedule, paper.inference)
