"""A pretraining run: the loss falls, the weights are found by every encoder, and pictures are drawn from them."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from convmae.backbones import ConvViT, ConvViTDet, ConvViTSeg, load_checkpoint
from convmae.engine.config import load_config, shipped_recipes
from convmae.engine.schedule import Schedule
from convmae.pretraining import ConvMAE
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.weights import load_pretrained
from convmae.tools import pretrain, visualize

RECIPES = [name for name in shipped_recipes() if name.startswith(("convmae", "fastconvmae", "demo_pretraining"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a short run on striped pictures, which are easy to reconstruct; pictures lie beside it."""
    folder = tmp_path_factory.mktemp("pretraining")
    (folder / "pictures" / "nested").mkdir(parents=True)
    for number in range(8):
        stripes = (np.arange(64) // (2 + number) % 2 * 200).astype(np.uint8)
        picture = Image.fromarray(np.broadcast_to(stripes, (64, 64)).copy())
        picture.save(folder / "pictures" / ("nested" if number % 2 else "") / f"{number}.png")
    options = ["model.img_size=64", "data.batch_size=8", "data.workers=0", "schedule.epochs=null", "schedule.steps=30"]
    options += ["schedule.warmup=5", "optim.lr=1e-3", f"data.root={folder / 'pictures'}", "runtime.log_every=1"]
    options += ["runtime.device=cpu"]
    argv = ["--config", "fastconvmae_tiny_96px.yaml", "--work-dir", str(folder / "run"), "--cfg-options", *options]
    assert pretrain.main(argv) == 0
    return folder / "run"


def test_the_loss_falls(finished: Path) -> None:
    losses = [json.loads(line)["loss"] for line in (finished / "scalars.jsonl").read_text().splitlines()]
    assert len(losses) == 30
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3])


def test_both_kinds_of_file_hold_the_same_weights(finished: Path) -> None:
    for name in ("pretrained", "encoder"):
        pickled = torch.load(finished / f"{name}.pth", weights_only=True)["model"]
        safe = safetensors.torch.load_file(finished / f"{name}.safetensors")
        assert pickled.keys() == safe.keys()
        assert all(torch.equal(pickled[key], safe[key]) for key in pickled)
        assert any(key.startswith("decoder_") for key in safe) == (name == "pretrained")


@pytest.mark.parametrize("cls", [ConvViT, ConvViTDet, ConvViTSeg])
@pytest.mark.parametrize("name", ["pretrained.pth", "encoder.safetensors"])
def test_every_encoder_takes_the_weights(finished: Path, cls: type, name: str) -> None:
    model = cls("tiny", img_size=96)
    report = load_checkpoint(model, finished / name)
    shared = [key for key in ConvMAE("tiny").state_dict() if key in model.state_dict()]
    assert not set(shared) & set(report.missing)
    assert report.resized == ["pos_embed"]


def test_pictures_are_drawn_from_full_weights_alone(finished: Path, capsys: pytest.CaptureFixture) -> None:
    pictures, drawn = finished.parent / "pictures", finished.parent / "drawn.png"
    argv = [str(pictures), "--output", str(drawn), "--limit", "2"]
    assert visualize.main([str(finished / "pretrained.safetensors"), *argv]) == 0
    assert Image.open(drawn).width > Image.open(drawn).height  # two pictures, four panels each
    assert visualize.main([str(finished / "pretrained.pth"), *argv]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert visualize.main([str(finished / "encoder.pth"), *argv, "--overwrite"]) == 2
    assert "holds no decoder" in capsys.readouterr().err


def test_weights_remember_how_they_were_trained(finished: Path) -> None:
    model, options = load_pretrained(finished / "pretrained.pth")
    assert (options.method, options.size, options.img_size) == ("fastconvmae", "tiny", 64)
    assert model.norm_pix_loss
    assert not load_pretrained(finished / "pretrained.pth", norm_pix_loss=False)[0].norm_pix_loss


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_says_what_to_expect(name: str) -> None:
    config = load_config(PretrainingConfig, name)
    assert Schedule.build(config.schedule, 10_000, config.data.batch_size).total > 0
    assert config.optim.betas == [0.9, 0.95]
    text = (Path(__file__).parents[2] / "configs" / name).read_text(encoding="utf-8")
    assert text.count("\n#") >= 1, "a recipe opens with its expected time and result"


def test_the_papers_settings() -> None:
    slow, fast = (load_config(PretrainingConfig, name) for name in ("convmae_base_1600e", "fastconvmae_base_50e"))
    assert (slow.optim.lr, slow.optim.lr_batch, slow.schedule.epochs, slow.schedule.warmup) == (1.5e-4, 256, 1600, 40)
    assert (fast.optim.lr, fast.data.batch_size, fast.schedule.epochs, fast.schedule.warmup) == (6e-4, 512, 50, 10)
    for config in (slow, fast):
        assert (config.optim.weight_decay, config.data.crop_scale, config.model.mask_ratio) == (0.05, 0.2, 0.75)
        assert (config.model.size, config.model.img_size, config.model.norm_pix_loss) == ("base", 224, True)
