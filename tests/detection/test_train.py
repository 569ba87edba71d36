"""Whole runs on a handful of pictures: files made, resuming, testing, recipes, and mistakes that stop before training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import two_processes
from tiny_detector import tiny_config

from convmae.detection.config import DetectionConfig
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.detection.train import test as run_test
from convmae.detection.train import train
from convmae.engine.config import load_config, save_config
from convmae.engine.errors import UserError
from convmae.engine.recipes import shipped_recipes

RECIPES = [name for name in shipped_recipes() if name.startswith(("mask_rcnn_", "cascade_mask_rcnn_"))]


def test_a_run_then_a_test_of_its_weights_give_the_same_numbers_and_a_report(split: Path, tmp_path: Path) -> None:
    work_dir, again = split / "run", split / "test"
    work_dir.mkdir()
    again.mkdir()
    train(tiny_config(split), work_dir, resume=False)
    metrics = json.loads((work_dir / "metrics.json").read_text())
    assert {"bbox_mAP", "segm_AR_100", "classes"} <= metrics.keys()
    page = (work_dir / "report/index.html").read_text()
    for text in (
        "COCO's twelve numbers",
        "Precision over recall, mask",
        "ground truth",
        "deep/2.png",
        "fpn_channels",
        "disc",
    ):
        assert text.replace("'", "&#39;") in page or text in page
    rerun = run_test(tiny_config(split), work_dir / "model.pth", again)
    assert rerun == {name: pytest.approx(value) for name, value in metrics.items() if "_" in name}
    assert run_test(tiny_config(split), work_dir / "step_2.pth", again) == rerun
    assert (again / "report/index.html").is_file()
    batched = run_test(tiny_config(split, "data.eval_batch_size=3"), work_dir / "model.pth", again)  # of four pictures
    assert batched == pytest.approx(rerun, abs=1e-6)


@pytest.mark.parametrize("cascade", ["false", "true"])
def test_a_resumed_run_equals_an_uninterrupted_one(cascade: str, split: Path) -> None:
    for name in ("whole", "parts"):
        (split / name).mkdir()
    overrides = ("schedule.save_every=1", "schedule.policy=constant", "schedule.warmup=0", "model.drop_path=0.2")
    overrides += (f"model.cascade={cascade}",)
    train(tiny_config(split, *overrides), split / "whole", resume=False)
    train(tiny_config(split, *overrides, "schedule.steps=1"), split / "parts", resume=False)
    train(tiny_config(split, *overrides), split / "parts", resume=True)
    whole, parts = (torch.load(split / name / "model.pth", weights_only=True)["model"] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    annotations = split / "instances.json"
    annotations.write_text(annotations.read_text().replace('"name": "disc"', '"name": "ring"'))
    with pytest.raises(UserError, match=r"step_2\.pth was trained on classes with 'disc' where the data has 'ring'"):
        train(tiny_config(split, *overrides, "schedule.steps=3"), split / "parts", resume=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_builds_its_model(recipe: str) -> None:
    config = load_config(DetectionConfig, recipe)
    with torch.device("meta"):
        model = MaskRCNN(config.model, classes=80, img_size=config.data.img_size)
    assert model.roi_heads.has_mask
    assert len(model.roi_heads.stages) == (3 if recipe.startswith("cascade_") else 1)


def test_the_papers_settings_stand_in_its_recipes() -> None:
    paper, released = (load_config(DetectionConfig, f"mask_rcnn_convmae_{name}.yaml") for name in ("25e", "w16_25e"))
    assert (paper.model.window_size, released.model.window_size) == (7, 16)
    assert (paper.optim.lr, paper.optim.weight_decay, paper.data.batch_size) == (8e-5, 0.1, 32)
    assert (paper.model.drop_path, paper.schedule.epochs, paper.optim.layer_decay) == (0.1, 25, 1.0)
    assert paper.schedule.warmup == 0.005 * paper.schedule.epochs
    assert (paper.data.img_size, paper.data.jitter) == (1024, [0.1, 2.0])
    assert paper == load_config(DetectionConfig, None, ["data.keep_empty=false"])


def test_mistakes_stop_a_run_before_its_first_step(split: Path) -> None:
    for override, said in (
        ("data.root=nowhere", "There is no annotation file"),
        ("data.val_annotations=gone.json", "There is no annotation file"),
        ("data.jitter=[2.0,0.5]", "data.jitter is"),
        ("data.jitter=[1.0]", "data.jitter is [1.0]; expected 2 numbers"),
        ("model.anchor_sizes=[16,32]", "anchor_sizes is [16.0, 32.0]; expected 5 numbers"),
        ("data.img_size=100000", "data.img_size is 100000"),
        ("data.img_size=8", "data.img_size is 8"),
        ("model.pre_nms_test=0", "pre_nms_test is 0; expected at least 1"),
        ("model.box_convs=[8,0]", "box_convs is [8, 0]; expected from 1 to 8192"),
        ("data.limit=-1", "data.limit is -1"),
    ):
        with pytest.raises(UserError, match=said.replace("[", r"\[")):
            train(tiny_config(split, override), split, resume=False)
    assert not list(split.glob("step_*"))


def test_two_processes_train_and_test_as_one(split: Path, change: Callable[[Callable[[dict], Any]], Path]) -> None:
    change(lambda content: content["images"].pop())  # three pictures: one of the processes gets a picture twice
    options = ["data.batch_size=4", "schedule.policy=constant", "schedule.warmup=0", "model.drop_path=0.2"]
    config = tiny_config(split, *options)
    (split / "one").mkdir()
    train(config, split / "one", resume=False)
    save_config(config, split / "recipe.yaml")
    command = ["-m", "convmae.tools.train_det", "--config", "recipe.yaml", "--work-dir", "two"]
    done = two_processes(*command, cwd=split)
    assert done.returncode == 0, done.stderr[-3000:]
    # Rounding in the first step may turn a decision of the second one, such as which of two proposals is suppressed.
    for step, tolerance in ((1, 1e-4), (2, 5e-2)):
        one, two = (torch.load(split / name / f"step_{step}.pth", weights_only=True) for name in ("one", "two"))
        moments, others = (content["optimizer"]["state"] for content in (one, two))
        assert moments.keys() == others.keys()
        for number, state in moments.items():
            apart = (state["exp_avg"] - others[number]["exp_avg"]).abs().max()
            assert apart <= tolerance * state["exp_avg"].abs().max()
        for name, value in one["state_dict"].items():
            if (
                value.is_floating_point()
            ):  # AdamW makes a step of up to 5e-4 of any gradient, be it nothing but rounding
                torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=1e-3)
    done = two_processes("-m", "convmae.tools.test_det", "one/model.pth", "--work-dir", "test", cwd=split)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, halves = (json.loads((split / name / "metrics.json").read_text()) for name in ("one", "test"))
    assert halves == whole
