"""Weights that come with the package: found by name alone, whole, told of in README.md, and better than random ones."""

from pathlib import Path

import pytest
import torch

import convmae
from convmae.backbones import ConvViT, load_encoder
from convmae.backbones.families import named_size
from convmae.backbones.weights.weight_files import read_weights
from convmae.engine.config import from_tree
from convmae.engine.errors import UserError
from convmae.engine.files import beside, check_is_file, file_of, read_config
from convmae.engine.pictures import scenes
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import normalize
from convmae.engine.safe_yaml import parse_yaml
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.data.dataset import PictureFolder
from convmae.pretraining.weights import load_pretrained
from convmae.tools import finetune
from convmae.zoo import shipped_file, shipped_weights

NAMES = shipped_weights()
CARD = Path(__file__).parents[2] / "zoo" / "README.md"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> scenes.Layouts:
    return scenes.generate(tmp_path_factory.mktemp("data") / "made", train=8, val=4, size=128)


def test_some_are_there() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_whole_encoder_of_the_recipe_in_its_file(name: str) -> None:
    tree = parse_yaml(read_config(Path(name)), name)
    assert from_tree(PretrainingConfig, tree).model.method == "convmae"
    assert named_size(name) == ("convvit", tree["model"]["size"])
    encoder = load_encoder(name)
    assert isinstance(encoder, ConvViT)
    state, _ = read_weights(name)
    assert all(value.dtype == torch.float16 for value in state.values() if value.is_floating_point())
    assert torch.equal(encoder.state_dict()["patch_embed1.proj.weight"], state["patch_embed1.proj.weight"].float())
    assert file_of(name).stat().st_size < 14e6


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_of_each(name: str) -> None:
    card = CARD.read_text(encoding="utf-8")
    assert f"## `{name}`" in card
    part = card.split(f"## `{name}`")[1].split("\n## ")[0]
    for said in ("python tools/pretrain.py", "k-NN", "linear probe", "Licence", "pictures"):
        assert said in part, said


@pytest.mark.parametrize("name", NAMES)
def test_it_fills_in_what_it_does_not_see(name: str, data: scenes.Layouts) -> None:
    model, options = load_pretrained(Path(name))
    config = PretrainingConfig()
    config.data.root = str(data.images)
    torch.manual_seed(0)
    pictures = PictureFolder(config.data, options.img_size)
    samples = [pictures[index] for index in range(len(pictures))]
    images, noise = (torch.stack([sample[key] for sample in samples]) for key in ("images", "noise"))
    with torch.no_grad():
        loss = model(normalize(images), options.mask_ratio, noise=noise)[0]
    assert loss < 0.9  # 1 is what predicting nothing gives for pixels that are normalised patch by patch


def test_a_file_or_folder_of_the_user_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_file(NAMES[0]) is not None
    assert shipped_file(f"./{NAMES[0]}") is None
    assert beside(NAMES[0], ".onnx") == Path(f"{NAMES[0]}.onnx")
    assert beside("runs/model.pth", ".onnx") == Path("runs/model.onnx")
    Path(NAMES[0]).write_bytes(b"own")
    assert shipped_file(NAMES[0]) is None
    assert file_of(NAMES[0]) == Path(NAMES[0])


def test_a_name_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(UserError, match=f"There is no checkpoint convmae_tinny: expected a file.*{NAMES[0]}"):
        check_is_file("convmae_tinny")


def test_a_run_starts_from_a_name(data: scenes.Layouts, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = [f"data.root={data.classes}", f"model.init={NAMES[0]}", "model.img_size=64", "schedule.steps=1"]
    options += ["data.batch_size=4", "data.workers=0", "runtime.device=cpu", "runtime.precision=fp32"]
    argv = ["--config", "finetune_tiny_96px.yaml", "--work-dir", str(tmp_path / "run"), "--cfg-options", *options]
    assert finetune.main(argv) == 0
    assert f"{NAMES[0]}" in capsys.readouterr().out
    assert convmae.load(tmp_path / "run" / "model.pth").predict(list_images(data.images)[:1])
