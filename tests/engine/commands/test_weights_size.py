"""A run takes the size of the encoder that it starts from, says so, and refuses one that was set otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from convmae.backbones import ConvViT, ConvViTDet, ViT
from convmae.backbones.families import named_size
from convmae.classification.config import FinetuningConfig
from convmae.detection.config import DetectionConfig
from convmae.engine.commands.weights_size import by_weights
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.pretraining.config import PretrainingConfig
from convmae.tools import train_det

BASE, TINY = "mask_rcnn_convmae_25e.yaml", "mask_rcnn_tiny_256px.yaml"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoders")
    models = {
        "tiny": ConvViT("tiny", num_classes=0, img_size=32),
        "vit": ViT("tiny", num_classes=0, img_size=32),
        "own": ConvViT({"embed_dims": (8, 16, 32), "depths": (1, 1, 1)}, num_classes=0, img_size=32),
    }
    for name, model in models.items():
        torch.save({"model": model.state_dict()}, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in models}


def fitted(schema: type, config: str, default: str, *given: str) -> tuple:
    def load(recipe: str, more: list[str]) -> object:
        return load_config(schema, recipe, [*more, *given])

    return by_weights(load(config, []), config, default, given, load)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_a_file_tells_family_and_size(size: str, tmp_path: Path) -> None:
    for kind, family in ((ConvViT, "convvit"), (ViT, "vit"), (ConvViTDet, "convvit")):
        state = {f"backbone.{name}": value for name, value in kind(size, img_size=64).state_dict().items()}
        safetensors.torch.save_file(state, tmp_path / "model.safetensors")
        assert named_size(tmp_path / "model.safetensors") == (family, size)


def test_a_recipe_that_nobody_named_gives_way_to_that_of_the_size(encoders: dict[str, str]) -> None:
    init = f"model.init={encoders['tiny']}"
    config, recipe, notes = fitted(DetectionConfig, BASE, BASE, init, "data.flip=0")
    assert config == load_config(DetectionConfig, TINY, [init, "data.flip=0"])
    assert recipe == TINY
    assert notes == [f"{encoders['tiny']} holds a ConvViT of size tiny: takes the recipe {TINY}"]


def test_of_a_recipe_that_was_named_the_size_alone_gives_way(encoders: dict[str, str]) -> None:
    init = f"model.init={encoders['tiny']}"
    config, recipe, notes = fitted(DetectionConfig, BASE, "", init)
    assert (config, recipe) == (load_config(DetectionConfig, BASE, [init, "model.size=tiny"]), BASE)
    assert "model.size=tiny" in notes[0]


def test_a_plain_vit_is_known_where_it_can_be_trained(encoders: dict[str, str]) -> None:
    init = f"model.init={encoders['vit']}"
    config, _, notes = fitted(FinetuningConfig, "finetune_convmae_base_100e.yaml", "", init)
    assert (config.model.arch, config.model.size) == ("vit", "tiny")
    assert "model.size=tiny and model.arch=vit" in notes[0]
    assert not fitted(DetectionConfig, BASE, "", init)[2]  # the task says what it expected
    assert not fitted(PretrainingConfig, "fastconvmae_base_50e.yaml", "", init)[2]
    assert fitted(PretrainingConfig, "mae_base_1600e.yaml", "", init)[0].model.size == "tiny"


@pytest.mark.parametrize("given", [["model.size=tiny"], ["data.flip=0"]])
def test_what_fits_or_is_of_no_known_size_stays(given: list[str], encoders: dict[str, str]) -> None:
    name = "tiny" if given == ["model.size=tiny"] else "own"
    config, recipe, notes = fitted(DetectionConfig, BASE, BASE, f"model.init={encoders[name]}", *given)
    assert (recipe, notes, config.data.img_size) == (BASE, [], 1024)


def test_what_was_set_is_never_changed(encoders: dict[str, str]) -> None:
    with pytest.raises(
        UserError, match=r"model\.size is base, and .* holds a ConvViT of size tiny; leave model\.size out"
    ):
        fitted(DetectionConfig, TINY, TINY, f"model.init={encoders['tiny']}", "model.size=base")
    with pytest.raises(UserError, match=r"model\.arch is convvit, and .* holds a plain ViT"):
        fitted(FinetuningConfig, "finetune_tiny_96px.yaml", "", f"model.init={encoders['vit']}", "model.arch=convvit")


def test_the_tool_says_it_before_it_looks_at_data(
    encoders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train_det.main(["--cfg-options", f"model.init={encoders['tiny']}", "data.root=."]) == 2
    assert (
        f"holds a ConvViT of size tiny: takes the recipe {TINY}"
        in Path("work_dirs/mask_rcnn_tiny_256px/log.txt").read_text()
    )
    assert "instances_train2017.json" in capsys.readouterr().err
