"""Runs from Python do what the tools do and give back what they made."""

import json
from pathlib import Path

import pytest
import torch

import convmae
from convmae.backbones import ConvViT
from convmae.engine.files import save_weights
from convmae.engine.pictures import scenes
from convmae.tools import cli

SHORT = {
    "data__workers": 0,
    "data__batch_size": 2,
    "schedule__epochs": None,
    "schedule__steps": 2,
    "schedule__warmup": 0,
    "runtime__precision": "fp32",
    "runtime__device": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> scenes.Layouts:
    return scenes.generate(tmp_path_factory.mktemp("scenes"), train=4, val=2, size=64)


def test_a_pretrained_encoder_starts_a_detector_that_predicts(data: scenes.Layouts, tmp_path: Path) -> None:
    pretrained = convmae.pretrain(
        "fastconvmae_tiny_96px.yaml", work_dir=tmp_path / "pre", data__root=data.images, model__img_size=32, **SHORT
    )
    assert pretrained.weights == tmp_path / "pre" / "encoder.pth"
    assert isinstance(pretrained.model, ConvViT)
    assert "last_loss" in pretrained.metrics
    options = {"data__root": data.coco, "data__img_size": 64, "model__fpn_channels": 16, "model__norm": "gn"}
    run = convmae.train_det(
        "mask_rcnn_tiny_256px",
        work_dir=str(tmp_path / "det"),
        model__init=pretrained.weights,
        model__score_threshold=0.0,
        **{name.replace("__", "."): value for name, value in options.items()},  # dots are understood, too
        **SHORT,
    )
    assert run.metrics == json.loads((tmp_path / "det" / "metrics.json").read_text())
    assert isinstance(run.model, convmae.Detector)
    assert run.model is run.model
    results = run.model.predict(data.images)
    assert len(results) == len(list(data.images.rglob("*.*g")))
    with pytest.raises(convmae.UserError, match="holds an earlier run"):
        convmae.train_det("mask_rcnn_tiny_256px", work_dir=tmp_path / "det", **options, **SHORT)


def test_a_run_is_the_tools(data: scenes.Layouts, tmp_path: Path) -> None:
    options = {"data__root": data.ade20k, "data__crop": 64, "data__scale": [128, 64], "inference__crop": 64}
    options |= {"inference__stride": 48, "model__decode_channels": 16, "model__aux_channels": 16, **SHORT}
    run = convmae.train_seg("upernet_tiny_256px.yaml", work_dir=tmp_path / "one", **options)
    said = [f"{name.replace('__', '.')}={'null' if value is None else value}" for name, value in options.items()]
    argv = ["train_seg", "--config", "upernet_tiny_256px.yaml", "--work-dir", str(tmp_path / "other"), "--cfg-options"]
    assert cli.main([*argv, *said]) == 0
    other = torch.load(tmp_path / "other" / "model.pth", weights_only=True)["model"]
    mine = torch.load(run.weights, weights_only=True)["model"]
    assert all(torch.equal(value, other[name]) for name, value in mine.items())


def test_a_run_takes_the_size_of_the_encoder_that_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(ConvViT("tiny", img_size=32).state_dict(), tmp_path / "encoder.pth")
    started = []
    monkeypatch.setattr("convmae.runs.start_run", lambda config, *more: started.append((config.model.size, more[-1])))
    convmae.train_det("mask_rcnn_convmae_25e.yaml", model__init=tmp_path / "encoder.pth")
    ((size, notes),) = started
    assert size == "tiny"
    assert "holds a ConvViT of size tiny: model.size=tiny" in notes[0]
    with pytest.raises(convmae.UserError, match=r"leave model\.size out"):
        convmae.train_det("mask_rcnn_convmae_25e.yaml", model__init=tmp_path / "encoder.pth", model__size="base")


def test_a_run_is_continued_by_its_own_recipe(data: scenes.Layouts, tmp_path: Path) -> None:
    short = {**SHORT, "data__root": data.images, "model__img_size": 32, "work_dir": tmp_path / "pre"}
    convmae.pretrain("fastconvmae_tiny_96px.yaml", **short)
    convmae.pretrain(work_dir=tmp_path / "pre", resume=True, schedule__steps=3)
    assert (tmp_path / "pre" / "step_3.pth").is_file()
    with pytest.raises(
        convmae.UserError, match=r"config\.yaml, which would say what resume=True continues; .* work_dir="
    ):
        convmae.pretrain(work_dir=tmp_path / "none", resume=True)


def test_messages_name_pythons_arguments(data: scenes.Layouts, tmp_path: Path) -> None:
    options = {"work_dir": tmp_path / "run", "data__root": data.images, "model__img_size": 32, **SHORT}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step_1.pth").touch()
    for wrong, said in (
        ({}, "Give another work_dir=, or move it"),
        ({"resume": True, "overwrite": True}, "resume=True continues the run in the work directory, overwrite=True"),
        ({"model__mask_ratoi": 0.5}, r"model__mask_ratoi=0\.5: there is no option 'model\.mask_ratoi'"),
        ({"model.init": tmp_path / "text.pth", "work_dir": tmp_path / "new"}, "text.pth is a file that begins with"),
    ):
        (tmp_path / "text.pth").write_text("no weights")
        with pytest.raises(convmae.UserError, match=said) as caught:
            convmae.pretrain("fastconvmae_tiny_96px.yaml", **(options | wrong))
        assert "--" not in str(caught.value)


def test_mistakes_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(convmae.UserError, match=r"There is no data folder .*gone"):
        convmae.finetune("finetune_tiny_96px.yaml", work_dir=tmp_path / "cls", data__root=tmp_path / "gone")
    with pytest.raises(convmae.UserError, match=r"there is no option 'data.rot'\. Did you mean 'root'"):
        convmae.finetune("finetune_tiny_96px.yaml", work_dir=tmp_path / "cls", data__rot="x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(convmae.UserError, match="start the tool by torchrun"):
        convmae.finetune("finetune_tiny_96px.yaml", work_dir=tmp_path / "cls")
