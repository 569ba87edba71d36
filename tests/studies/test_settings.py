"""What is asked for and can't be is said before anything is trained; what isn't asked for fits the data and the weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.backbones import ConvViT
from convmae.backbones.families import FAMILIES
from convmae.detection.config import DetectionConfig
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.pictures import scenes
from convmae.engine.training.schedule import Schedule
from convmae.pretraining.config import PretrainingConfig
from convmae.studies import worth
from convmae.studies.labelled import TASKS
from convmae.studies.plan import TIMED
from convmae.studies.settings import Request, Settings, settle


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> scenes.Layouts:
    return scenes.generate(tmp_path_factory.mktemp("data") / "made", train=16, val=4, size=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for size in ("tiny", "small"):
        torch.save({"model": ConvViT(size, num_classes=0).state_dict()}, folder / f"{size}.pth")
    torch.save({"model": FAMILIES["vit"]("tiny", 2, 32).state_dict()}, folder / "vit.pth")
    return folder


@pytest.fixture
def request_of(data: scenes.Layouts, tmp_path: Path) -> Request:
    return Request(
        root=str(data.coco),
        work_dir=tmp_path / "study",
        pictures=None,
        pretrain=True,
        encoders=[],
        further=[],
        recipe=None,
        pretrain_recipe=None,
        shares=[25, 100],
        seeds=[0, 1],
        rates=[1, 3],
        draws=2,
        options=["runtime.device=cpu"],
        pretrain_options=[],
        jobs=None,
    )


def settled(request: Request, task: str = "det", **changes: Any) -> Settings:
    return settle(replace(request, **changes), TASKS[task])


def test_what_is_not_asked_for_fits_the_data(request_of: Request, data: scenes.Layouts) -> None:
    found = settled(request_of)
    plan = found.plan
    assert (plan.recipe, plan.pretrain_recipe) == ("mask_rcnn_tiny_256px.yaml", "fastconvmae_tiny_96px.yaml")
    assert [arm.name for arm in plan.arms] == ["scratch", "pretrained"]
    assert found.pictures == {25: 4, 100: 16}
    assert plan.rates == (0.001, 0.003)  # factors of the recipe's
    assert plan.steps == 48  # 24 epochs of 16 pictures in batches of 8
    assert {"schedule.steps=48", "schedule.epochs=null", "schedule.warmup=1", "schedule.eval_every=0"} <= set(
        plan.options
    )
    assert found.pretraining[3:] == (str(data.coco / "train2017"), 16, 0)
    assert f"data.root={data.coco / 'train2017'}" in plan.pretrain_options
    assert {"data.batch_size=8", "optim.lr=0.0004"} <= set(plan.pretrain_options)  # as pretrain --auto fits them
    assert found.pretraining.steps == plan.pretraining_steps == 4000
    assert {"model.size=tiny", "data.workers=0"} <= set(plan.options) & set(plan.pretrain_options)
    assert plan.scratch_options == ()  # the recipe has no layer decay


def test_a_recipe_and_options_of_pretraining_that_are_given_stay(request_of: Request) -> None:
    named = settled(request_of, pretrain_recipe="convmae_tiny_96px.yaml")
    assert not [one for one in named.plan.pretrain_options if one.startswith(("optim.lr", "data.batch_size"))]
    own = settled(request_of, pretrain_options=["schedule.steps=50", "data.batch_size=4"])
    assert own.pretraining.steps == 50
    assert [one for one in own.plan.pretrain_options if one.startswith("data.batch_size")] == ["data.batch_size=4"]


def test_other_tasks(request_of: Request, data: scenes.Layouts) -> None:
    seg = settled(request_of, "seg", root=str(data.ade20k))
    assert seg.plan.recipe == "upernet_tiny_camvid.yaml"
    assert seg.plan.scratch_options == ("optim.layer_decay=1.0",)
    assert seg.pictures == {25: 4, 100: 16}
    assert seg.pretraining.root == str(data.ade20k / "images" / "training")
    cls = settled(request_of, "cls", root=str(data.classes), shares=[50, 100])
    assert cls.plan.recipe == "finetune_tiny_96px.yaml"
    assert cls.pictures[50] < cls.pictures[100]
    assert "model.arch=convvit" not in cls.plan.options


def test_lengths_that_are_given_hold_at_all_shares(request_of: Request) -> None:
    found = settled(
        request_of, options=["schedule.epochs=3", "data.batch_size=4", "runtime.device=cpu", "data.workers=1"]
    )
    assert found.plan.steps == 12
    assert "data.workers=0" not in found.plan.options
    assert "runtime.device=cpu" in found.plan.pretrain_options  # where training is computed


def test_pictures_that_validation_has_too_are_counted(request_of: Request, data: scenes.Layouts) -> None:
    found = settled(request_of, pictures=str(data.coco))
    assert found.pretraining[4:] == (20, 4)


def test_classes_that_a_share_lacks_are_named(request_of: Request, data: scenes.Layouts) -> None:
    for task, root in (("det", data.coco), ("seg", data.ade20k)):
        found = settled(request_of, task, root=str(root), shares=[6.25, 100])
        assert found.pictures[6.25] == 1
        lacking = found.lacking[6.25, 0]
        assert lacking
        assert set(lacking) < {*scenes.CLASSES}
        assert all(share == 6.25 for share, _ in found.lacking)
        (doubt,) = worth.doubts(found)
        named = ", ".join(f"'{name}'" for name in lacking[:3])
        assert doubt.startswith(f"6.25 % of the labels by seed 0 lack classes of the others: {named}")
        assert (f"and {len(lacking) - 3} more" in doubt) == (len(lacking) > 3)


def test_recipes_of_steps_are_timed_like_others(request_of: Request) -> None:
    recipe = "mask_rcnn_convmae_simple_25e.yaml"
    plan = settled(request_of, recipe=recipe).plan
    assert any(one.startswith("schedule.milestones=[") for one in plan.options)
    for run in plan.timing():
        schema = PretrainingConfig if run.words[0] == "pretrain" else DetectionConfig
        config: Any = load_config(schema, run.words[2], run.words[run.words.index("--cfg-options") + 1 :])
        assert Schedule.build(config.schedule, 16, config.data.batch_size).total == TIMED


def test_the_floor_is_the_score_of_one_answer(request_of: Request, data: scenes.Layouts) -> None:
    assert settled(request_of).labelled.floor == 0
    cls = settled(request_of, "cls", root=str(data.classes), shares=[50, 100]).labelled
    counts = Counter(path.parent.name for path in cls.validation)
    assert cls.floor == max(counts.values()) / len(cls.validation)
    seg = settled(request_of, "seg", root=str(data.ade20k)).labelled
    maps = [np.array(Image.open(path)) for path in sorted((data.ade20k / "annotations" / "validation").iterdir())]
    found = np.bincount(np.concatenate([one.ravel() for one in maps]), minlength=256)[1:255]
    union = found.sum()
    assert seg.floor == pytest.approx(max(found) / union / np.count_nonzero(found))


def test_rates_that_are_the_same_when_rounded_are_one(request_of: Request) -> None:
    plan = settled(request_of, rates=[1, 1.0001]).plan
    assert plan.rates == (0.001,)
    assert plan.trials == []


def test_the_size_is_that_of_the_weights(request_of: Request, weights: Path) -> None:
    found = settled(request_of, encoders=[f"mine={weights / 'small.pth'}"], further=["mine"])
    assert found.size == "small"
    assert "model.size=small" in found.plan.options
    assert "model.size=small" in found.plan.pretrain_options
    assert found.plan.pretrain_recipe == "fastconvmae_small_100e.yaml"
    assert [arm.name for arm in found.plan.arms] == ["scratch", "pretrained", "mine_pretrained", "mine"]


def test_a_plain_vit_is_pretrained_by_mae(request_of: Request, data: scenes.Layouts, weights: Path) -> None:
    given = {"root": str(data.classes), "shares": [50, 100], "encoders": [f"mine={weights / 'vit.pth'}"]}
    with pytest.raises(UserError, match="name one by --pretrain-config"):
        settled(request_of, "cls", **given)
    with pytest.raises(UserError, match="pretrains a convvit of size tiny, and the arms are a vit"):
        settled(request_of, "cls", pretrain_recipe="convmae_tiny_96px.yaml", **given)
    found = settled(request_of, "cls", pretrain_recipe="mae_tiny_96px.yaml", **given)
    assert "model.arch=vit" in found.plan.options
    with pytest.raises(UserError, match="plain ViT, which this task has no model of"):
        settled(request_of, encoders=given["encoders"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoders": ["file.pth"]}, "expected NAME=FILE"),
        ({"encoders": ["../up=TINY"]}, "expected NAME=FILE"),
        ({"encoders": ["scratch=TINY"]}, "scratch is what the study calls an arm of its own"),
        ({"encoders": ["pretrained=TINY"]}, "pretrained is what the study calls"),
        ({"encoders": ["log.txt=TINY"]}, "the study has a log.txt of its own"),
        ({"encoders": ["report=TINY"]}, "the study has a report of its own"),
        ({"encoders": ["a=TINY", "a=SMALL"]}, "names 'a' twice"),
        ({"encoders": ["a=TINY", "b=SMALL"]}, "--encoder b is a convvit of size small, a a convvit of size tiny"),
        ({"encoders": ["a=nothing.pth"]}, "There is no checkpoint nothing.pth"),
        (
            {"encoders": ["a=SMALL"], "options": ["model.size=tiny"]},
            "model.size is tiny, and --encoder a is a convvit of size",
        ),
        ({"encoders": ["a=TINY", "a_pretrained=TINY"], "further": ["a"]}, "which --further a makes"),
        ({"further": ["b"]}, "expected an encoder's name: none is given"),
        ({"pretrain": False}, "nothing to compare with scratch"),
        ({"pretrain": False, "encoders": ["a=TINY"], "further": ["a"]}, "--further pretrains"),
        ({"shares": [0, 50]}, "--shares is 0 50; expected percent"),
        ({"shares": [50, 101]}, "above 0 and at most 100"),
        ({"shares": [1, 50]}, "1 % of 16 labelled pictures is less than one picture"),
        ({"shares": [25, 26]}, "same number of pictures"),
        ({"rates": [0, 1]}, "factors of the recipe's learning rate"),
        ({"seeds": [-1]}, "--seeds is -1"),
        ({"seeds": [0, 1000]}, "--seeds has 1000, by which rates are tried"),
        ({"seeds": [0, 1001]}, "--seeds has 1001, by which rates are tried"),
        ({"draws": 0}, "--draws is 0; expected 1 or more"),
        ({"jobs": 0}, "--jobs is 0"),
        ({"options": ["model.init=a.pth"]}, "model.init is what the arms differ in"),
        ({"pretrain_options": ["data.nothing=3"]}, "^--pretrain-options data.nothing=3: there is no option"),
        ({"pretrain_options": ["data.root=b"]}, "data.root is given as the data folder"),
        ({"options": ["data.limit=4"]}, "data.limit overfits on purpose"),
        ({"root": "nowhere"}, "There is no folder nowhere"),
        ({"pictures": "nowhere"}, "There is no folder nowhere"),
        ({"pretrain_options": ["model.size=small"]}, "of size small, and the arms are a convvit of size tiny"),
        ({"options": ["model.size=huge"]}, "No recipe is the usual one to pretrain a convvit of size huge"),
    ],
)
def test_what_can_not_be_is_said(request_of: Request, weights: Path, changes: dict[str, Any], said: str) -> None:
    files = {"TINY": str(weights / "tiny.pth"), "SMALL": str(weights / "small.pth")}
    if "encoders" in changes:
        named = [given.partition("=") for given in changes["encoders"]]
        changes = {**changes, "encoders": [f"{name}{equals}{files.get(file, file)}" for name, equals, file in named]}
    with pytest.raises(UserError, match=said):
        settled(request_of, **changes)
    assert not request_of.work_dir.exists()


def test_each_class_has_a_picture_in_each_share(request_of: Request, tmp_path: Path) -> None:
    for split, counts in (("train", (20, 3)), ("val", (1, 1))):
        for name, count in zip("ab", counts, strict=True):
            for number in range(count):
                path = tmp_path / "classes" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40), (number, len(split), 9 * len(name))).save(path)
    with pytest.raises(UserError, match="10 % of 3 pictures of a class is less than one"):
        settled(request_of, "cls", root=str(tmp_path / "classes"), shares=[10, 100])
    assert settled(request_of, "cls", root=str(tmp_path / "classes"), shares=[25, 100]).pictures == {25: 6, 100: 23}
