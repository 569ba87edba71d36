"""Whole runs on a handful of pictures: files made, features kept, resuming, recipes, and mistakes that stop before training."""

import json
import random
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from convmae.backbones import ConvViT, ViT
from convmae.classification.config import FinetuningConfig, LinearProbeOptions, ProbeConfig
from convmae.classification.data.dataset import EvalSet, TrainSet, read_splits
from convmae.classification.probes.features import Features, extract, probed_encoder, read_features
from convmae.classification.train import finetune
from convmae.classification.train import knn as run_knn
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.machine.precision import resolve_precision
from convmae.engine.pictures.images import normalize
from convmae.engine.probes.linear import train_probes
from convmae.engine.recipes import shipped_recipes
from convmae.engine.seeding import SampleKey, SeededDataset
from convmae.pretraining import MAE
from convmae.tools import finetune as finetune_tool
from convmae.tools import knn, linear_probe, test_cls

RECIPES = [name for name in shipped_recipes() if name.startswith("finetune_")]


def tiny_config(folders: Path, *overrides: str) -> FinetuningConfig:
    return load_config(
        FinetuningConfig, "finetune_tiny_96px.yaml",
        [
            f"data.root={folders}", "model.img_size=32", "data.batch_size=8", "data.workers=0", "augment.flip=0",
            "augment.mixup=0", "augment.cutmix=0", "augment.crop_scale=0.8", "augment.rand_augment=", "augment.erase=0",
            "schedule.steps=2", "schedule.warmup=0", "schedule.eval_every=0", "schedule.save_every=1",
            "runtime.device=cpu", "runtime.precision=fp32", *overrides,
        ],
    )  # fmt: skip


def test_fine_tuning_learns_and_reports(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = tiny_config(folders, "schedule.steps=30", "optim.lr=1e-3", "optim.layer_decay=1.0", "model.smoothing=0")
    finetune(config, tmp_path / "run", resume=False)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["top1"] >= 0.9
    assert metrics["classes"].keys() == {"bright left half", "right"}
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    for text in ("Top-1", "Confusion matrix", "bright left half", "24 pictures of 2 classes", "rand_augment"):
        assert text in page
    weights = ConvViT.from_checkpoint(tmp_path / "run" / "model.pth")
    assert weights.num_classes == 2
    right = [
        int(weights.eval()(normalize(sample["images"][None])).argmax()) == sample["labels"]
        for sample in (EvalSet(read_splits(config.data)[1], 32, 1.0)[index] for index in range(10))
    ]
    assert sum(right) / 10 == pytest.approx(metrics["top1"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_equals_an_uninterrupted_one(folders: Path, tmp_path: Path, precision: str) -> None:
    overrides = (
        f"runtime.precision={precision}",
        "augment.mixup=0.8", "augment.cutmix=1.0", "augment.rand_augment=rand-m6-mstd0.5-inc1", "augment.erase=0.5",
        "model.drop_path=0.2", "schedule.policy=constant",
    )  # fmt: skip
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    finetune(tiny_config(folders, *overrides), tmp_path / "whole", resume=False)
    finetune(tiny_config(folders, *overrides, "schedule.steps=1"), tmp_path / "parts", resume=False)
    finetune(tiny_config(folders, *overrides), tmp_path / "parts", resume=True)
    whole, parts = (
        torch.load(tmp_path / name / "model.pth", weights_only=True)["model"] for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_a_run_exports_its_average_and_resumes_with_it(folders: Path, tmp_path: Path) -> None:
    weights = {}
    for name, average in (("averaged", 0.9), ("paused", 0.9), ("plain", 0.0)):
        (tmp_path / name).mkdir()
        options = [f"optim.average={average}", "schedule.policy=constant", "optim.lr=1e-3"]
        if name == "paused":
            finetune(tiny_config(folders, *options, "schedule.steps=1"), tmp_path / name, resume=False)
        config = tiny_config(folders, *options, "schedule.steps=3")
        finetune(config, tmp_path / name, resume=name == "paused")
        weights[name] = torch.load(tmp_path / name / "model.pth", weights_only=True)["model"]
    content = torch.load(tmp_path / "averaged" / "step_3.pth", weights_only=True)
    for name, value in weights["averaged"].items():
        assert torch.equal(value, weights["paused"][name]), name
        assert torch.equal(value, content["average"]["values"][f"model.{name}"])
        assert torch.equal(weights["plain"][name], content["state_dict"][f"model.{name}"])  # the steps are the same
    assert not torch.equal(weights["averaged"]["head.weight"], weights["plain"]["head.weight"])
    # What is read of a checkpoint is the average, too.
    read = ConvViT.from_checkpoint(tmp_path / "averaged" / "step_3.pth")
    assert all(torch.equal(value, weights["averaged"][name]) for name, value in read.state_dict().items())
    assert read.load_report.source.endswith("under 'state_dict', averaged, prefix 'model.'")


def test_the_test_tool_gives_the_runs_numbers(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    finetune(tiny_config(folders, "schedule.steps=4"), tmp_path / "run", resume=False)
    shutil.rmtree(folders / "train")  # testing needs the validation pictures alone
    assert test_cls.main([str(tmp_path / "run" / "model.pth")]) == 0
    first, again = (json.loads((tmp_path / "run" / name / "metrics.json").read_text()) for name in ("", "test"))
    assert first == again
    assert (tmp_path / "run" / "test" / "config.yaml").is_file()
    (folders / "val" / "left").rename(folders / "val" / "rightmost")
    for name in ("model.pth", "step_4.pth"):
        assert test_cls.main([str(tmp_path / "run" / name), "--overwrite", "--work-dir", str(tmp_path / "test")]) == 2
        said = capsys.readouterr().err
        assert f"{name} was trained on class folders with 'left' where {folders / 'val'} has 'right'" in said
        assert "only there: 'left'; only here: 'rightmost'" in said
    content = torch.load(tmp_path / "run" / "model.pth", weights_only=True)
    torch.save({"model": content["model"]}, tmp_path / "run" / "unnamed.pth")
    assert test_cls.main([str(tmp_path / "run" / "unnamed.pth"), "--overwrite"]) == 0
    capsys.readouterr()
    (folders / "val" / "rightmost").rename(folders / "val" / "left")
    shutil.copytree(folders / "val" / "left", folders / "val" / "up")
    assert test_cls.main([str(tmp_path / "run" / "model.pth"), "--overwrite"]) == 2
    assert f"without 'up', which {folders / 'val'} has (2 and 3 class folders" in capsys.readouterr().err
    assert test_cls.main([str(tmp_path / "run" / "unnamed.pth"), "--overwrite"]) == 2
    assert "does not fit the 3 classes" in capsys.readouterr().err
    (tmp_path / "run" / "config.yaml").write_text("model: {method: convmae}\n")
    assert test_cls.main([str(tmp_path / "run" / "unnamed.pth"), "--overwrite"]) == 2
    assert "if the run was of another kind, so are its weights" in capsys.readouterr().err


@pytest.mark.usefixtures("auto_precision")
def test_a_plain_vit_is_fine_tuned_and_probed_too(folders: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save({"model": MAE("tiny", img_size=32).state_dict()}, tmp_path / "mae.pth")
    (tmp_path / "run").mkdir()
    finetune(
        tiny_config(folders, "model.arch=vit", f"model.init={tmp_path / 'mae.pth'}", "runtime.precision=auto"),
        tmp_path / "run",
        resume=False,
    )
    assert ViT.from_checkpoint(tmp_path / "run" / "model.pth").num_classes == 2
    options = [
        "--config",
        "probe_96px.yaml",
        "--cfg-options",
        f"data.root={folders}",
        "model.img_size=32",
        "knn.ks=[3]",
        "runtime.device=cpu",
    ]
    options += [f"model.init={tmp_path / 'mae.pth'}", f"model.features={tmp_path / 'features'}", "data.workers=0"]
    assert knn.main([*options, "--work-dir", str(tmp_path / "knn")]) == 0
    assert json.loads((tmp_path / "knn" / "metrics.json").read_text())["top1"] >= 0.7


@pytest.mark.usefixtures("auto_precision")
def test_a_linear_probe_of_random_views_takes_them_by_turns(folders: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save({"model": ConvViT("tiny", num_classes=0).state_dict()}, tmp_path / "encoder.pth")
    config = load_config(
        ProbeConfig,
        "probe_96px.yaml",
        [
            f"data.root={folders}", f"model.init={tmp_path / 'encoder.pth'}", f"model.features={tmp_path / 'features'}",
            "model.img_size=32", "data.workers=0", "linear.views=2", "linear.lrs=[3.0]", "runtime.device=cpu",
        ],
    )  # fmt: skip
    split, encoder = read_splits(config.data)[0], probed_encoder(config.model.init)
    centre, first, second = (read_features(config, split, encoder, view) for view in (0, 1, 2))
    assert torch.equal(first.labels, centre.labels)
    assert not torch.equal(first.values, second.values)
    cpu = torch.device("cpu")
    dtype = resolve_precision("auto", cpu)
    assert torch.equal(extract(encoder, split, config, 2, cpu, dtype).values, second.values)

    def trained(views: list[Features], epochs: int) -> torch.Tensor:
        options = LinearProbeOptions(epochs=epochs, batch_size=24, lrs=[1.0], warmup=0)
        return train_probes(views, centre.values, 2, options, 0, cpu)[0].probabilities

    assert torch.equal(trained([first, second], 1), trained([first], 1))
    assert not torch.equal(trained([first, second], 2), trained([first], 2))
    assert torch.equal(trained([first, second, first], 3), trained([first, second], 3))


def test_augmentation_follows_from_the_sample_alone(folders: Path) -> None:
    config = load_config(FinetuningConfig, "finetune_tiny_96px.yaml", [f"data.root={folders}", "model.img_size=32"])
    data = SeededDataset(TrainSet(read_splits(config.data)[0], config.augment, 32), 0)
    first, _, again, other = (data[SampleKey(*key)] for key in ((0, 3), (0, 5), (0, 3), (1, 3)))
    assert torch.equal(first["images"], again["images"])
    assert first["images"].dtype is torch.uint8
    assert torch.equal(first["mix"], again["mix"])
    assert not torch.equal(first["images"], other["images"])


def test_rand_augment_is_timms_of_mae(folders: Path) -> None:
    text, picture = "rand-m5-mstd0.5-inc1", Image.effect_noise((48, 48), 80).convert("RGB")
    config = load_config(
        FinetuningConfig, "finetune_tiny_96px.yaml", [f"data.root={folders}", f"augment.rand_augment={text}"]
    )
    ours = TrainSet(read_splits(config.data)[0], config.augment, 48).transform.transforms[2]
    theirs = create_transform(48, is_training=True, auto_augment=text, interpolation="bicubic").transforms[2]
    for seed in range(40):
        drawn = []
        for augment in (ours, theirs):
            random.seed(seed)
            np.random.seed(seed)
            drawn.append(np.asarray(augment(picture)))
        assert np.array_equal(*drawn), seed


@pytest.mark.parametrize("text", ["rand-m10-n9-p1-inc1", "rand-m1-n9-p1", "rand-m30-n9-p1-mmax30-inc1"])
def test_rand_augment_takes_its_strongest(text: str, folders: Path) -> None:
    config = load_config(
        FinetuningConfig, "finetune_tiny_96px.yaml", [f"data.root={folders}", f"augment.rand_augment={text}"]
    )
    data = SeededDataset(TrainSet(read_splits(config.data)[0], config.augment, 32), 0)
    for index in range(10):
        assert data[SampleKey(0, index)]["images"].shape == (3, 32, 32)


def test_probes_work_from_an_encoder_and_share_its_features(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.manual_seed(0)
    torch.save({"model": ConvViT("tiny", num_classes=0).state_dict()}, tmp_path / "encoder.pth")
    options = ["--config", "probe_96px.yaml", "--cfg-options", f"data.root={folders}", "model.img_size=32"]
    options += [f"model.init={tmp_path / 'encoder.pth'}", f"model.features={tmp_path / 'features'}", "knn.ks=[3]"]
    options += ["data.workers=0", "linear.lrs=[1.0,3.0]", "runtime.device=cpu", "runtime.precision=fp32"]
    assert linear_probe.main([*options, "--work-dir", str(tmp_path / "linear")]) == 0
    assert f"{folders / 'val'}: 10 pictures" in capsys.readouterr().out
    kept = sorted((tmp_path / "features").iterdir())
    assert [path.name.split("_")[0] for path in kept] == ["train", "val"]
    assert knn.main([*options, "--work-dir", str(tmp_path / "knn")]) == 0
    assert f"features of {folders / 'val'}: {kept[1]}" in capsys.readouterr().out
    for name in ("linear", "knn"):
        # Where the light is survives a random encoder.
        assert json.loads((tmp_path / name / "metrics.json").read_text())["top1"] >= 0.9
        assert (tmp_path / name / "report" / "index.html").is_file()
    torch.save({"model": ConvViT("tiny", num_classes=0).state_dict()}, tmp_path / "encoder.pth")
    assert knn.main([*options, "--work-dir", str(tmp_path / "other")]) == 0
    assert len(list((tmp_path / "features").iterdir())) == 4  # other weights have other features


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_builds_its_model(recipe: str) -> None:
    config = load_config(FinetuningConfig, recipe)
    with torch.device("meta"):
        assert ConvViT(config.model.size, 1000, config.model.img_size).num_classes == 1000


def test_the_papers_settings_stand_in_its_recipe() -> None:
    assert load_config(FinetuningConfig, "finetune_convmae_base_100e.yaml") == load_config(FinetuningConfig, None)
    config = FinetuningConfig()
    assert (config.optim.lr, config.optim.lr_batch, config.optim.layer_decay) == (5e-4, 256, 0.65)
    assert (config.augment.mixup, config.augment.cutmix, config.augment.erase) == (0.8, 1.0, 0.25)
    assert config.schedule.min_lr * config.optim.lr * 1024 / 256 == pytest.approx(1e-6)
    assert load_config(ProbeConfig, "probe_224px.yaml").linear.batch_size == 4096


def test_mistakes_stop_a_run_before_its_first_step(folders: Path, tmp_path: Path) -> None:
    for override, said in (
        ("data.root=nowhere", "There is no data folder nowhere"),
        ("data.val=gone", "There is no folder"),
        ("model.drop_path=1.5", "model.drop_path is 1.5; expected from 0 to 0.99"),
        ("model.img_size=100000", "model.img_size is 100000; expected from 16 to"),
        *((f"augment.rand_augment={text}", "which timm does not read") for text in ("wild", "rand-mx", "rand-m9-tfoo")),
    ):
        with pytest.raises(UserError, match=said):
            finetune(tiny_config(folders, override), tmp_path, resume=False)
    shutil.copytree(folders / "val" / "left", folders / "val" / "up")
    with pytest.raises(UserError, match=r"has the class folder 'up'.*has not"):
        read_splits(tiny_config(folders).data)
    shutil.rmtree(folders / "val" / "up")
    for split in ("train", "val"):
        shutil.rmtree(folders / split / "right")
    with pytest.raises(UserError, match="one class folder, 'left'"):
        read_splits(tiny_config(folders).data)
    assert not list(tmp_path.glob("step_*"))


def test_few_labels_are_the_same_pictures_each_time(folders: Path) -> None:
    (few, val), (again, _) = (read_splits(tiny_config(folders, "data.per_class=3").data) for _ in range(2))
    whole = read_splits(tiny_config(folders, "data.per_class=99").data)[0]
    assert few.pictures == again.pictures
    assert set(few.pictures) < set(whole.pictures)
    assert [label for _, label in few.pictures] == [0] * 3 + [1] * 3
    assert (len(whole.pictures), len(val.pictures)) == (24, 10)


def test_a_probe_without_weights_says_so(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for init, said in (("", "model.init is empty"), (str(tmp_path / "gone.pth"), "There is no checkpoint")):
        assert (
            knn.main(
                ["--work-dir", str(tmp_path / "run"), "--cfg-options", f"data.root={folders}", f"model.init={init}"]
            )
            == 2
        )
        assert said in capsys.readouterr().err


def test_weights_that_leave_part_of_the_encoder_random_are_refused(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    states = {
        "half": {name: value for name, value in ConvViT("tiny", 0).state_dict().items() if "blocks3.1" not in name},
        "patch8": timm.create_model("vit_tiny_patch16_224", patch_size=8, img_size=32).state_dict(),
        "swin": timm.create_model("swin_tiny_patch4_window7_224").state_dict(),
    }
    for name, state in states.items():
        torch.save(state, tmp_path / f"{name}.pth")
        options = ["--cfg-options", f"data.root={folders}", f"model.init={tmp_path / f'{name}.pth'}"]
        assert knn.main(["--config", "probe_96px.yaml", "--work-dir", str(tmp_path / "run"), *options]) == 2
        said = capsys.readouterr().err
        assert "no whole" in said or "a plain ViT's blocks" in said
    with pytest.raises(UserError, match="of the encoder's tensors unfilled"):
        finetune(tiny_config(folders, f"model.init={tmp_path / 'half.pth'}"), tmp_path, resume=False)


def test_a_probe_of_many_processes_is_refused(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmae.classification.train.get_world_size", lambda: 2)
    with pytest.raises(UserError, match="start it without torchrun"):
        run_knn(load_config(ProbeConfig, "probe_96px.yaml", [f"data.root={folders}"]), tmp_path)


@pytest.mark.parametrize("tool", [knn, linear_probe])
@pytest.mark.parametrize("flag", ["--resume", "--compile"])
def test_a_probe_has_no_options_of_training(tool: ModuleType, flag: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        tool.main([flag])
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_a_linear_probe_that_can_not_be_trained_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for option, said in (
        ("linear.epochs=5", "linear.warmup is 10; expected less than linear.epochs, which is 5"),
        ("linear.batch_size=1", "linear.batch_size is 1; expected at least 2"),
    ):
        words = ["--config", "probe_224px.yaml", "--work-dir", str(tmp_path / "run")]
        assert linear_probe.main([*words, "--cfg-options", option, f"data.root={tmp_path}"]) == 2
        assert said in capsys.readouterr().err


def test_the_tool_refuses_an_unknown_option(capsys: pytest.CaptureFixture) -> None:
    assert finetune_tool.main(["--cfg-options", "augment.mixp=1"]) == 2
    assert "Did you mean 'mixup'?" in capsys.readouterr().err
