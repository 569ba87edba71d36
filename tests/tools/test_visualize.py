"""The visualize tool: what it draws from each kind of file, and what it answers to mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.backbones import ConvViT, ConvViTSeg, ViT
from convmae.engine.files import save_weights
from convmae.pretraining import MAE, ConvMAE, FastConvMAE
from convmae.tools import visualize

DIMS = {"embed_dims": (8, 8, 16), "depths": (1, 1, 2), "num_heads": 2}
PLAIN = {"embed_dim": 16, "depth": 2, "num_heads": 2}
DECODER = {"decoder_dim": 32, "decoder_depth": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of every kind, and two pictures of different shapes."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    fast = FastConvMAE(DIMS, 64, **DECODER).state_dict()
    encoder = {name: value for name, value in fast.items() if not name.startswith(("decoder_", "mask_token"))}
    config = "model:\n  method: {}\n  img_size: 64\n  mask_ratio: 0.5\n  groups: {}\n"
    save_weights(fast, folder / "pretrained.pth", config.format("fastconvmae", "null"))
    save_weights(fast, folder / "three_groups.safetensors", config.format("fastconvmae", 3))
    save_weights(encoder, folder / "encoder.pth", config.format("fastconvmae", "null"))
    save_weights(ConvViT(DIMS, 3, 64).state_dict(), folder / "finetuned.safetensors", "model:\n  drop_path: 0.1\n")
    save_weights(ConvViTSeg(DIMS, 64).state_dict(), folder / "segmenter.pth")
    save_weights(ViT(PLAIN, 0, 64).state_dict(), folder / "vit.pth")
    torch.save({"model": ConvMAE(DIMS, 64, **DECODER).state_dict()}, folder / "published.pth")
    torch.save({"model": MAE(PLAIN, 64, **DECODER).state_dict()}, folder / "mae.pth")
    torch.save({name: value for name, value in encoder.items() if "patch_embed4" not in name}, folder / "part.pth")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for name, (width, height) in {"wide": (90, 60), "tall": (60, 90)}.items():
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(folder / "pictures" / f"{name}.png")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def draw(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Draw":
    monkeypatch.chdir(tmp_path)
    return Draw(files)


class Draw:
    """Runs the tool on a file of weights and the pictures, and opens what it wrote."""

    def __init__(self, files: Path) -> None:
        self.files = files

    def status(self, weights: str, *options: str, pictures: str = "pictures") -> int:
        return visualize.main([str(self.files / weights), str(self.files / pictures), *options])

    def __call__(self, weights: str, *options: str, kind: str = "reconstructions") -> Image.Image:
        assert self.status(weights, *options, "--overwrite") == 0
        return Image.open(f"{kind}.png")


def test_one_row_for_each_ratio(draw: Draw) -> None:
    one = draw("published.pth", "--mask-ratio", "0.75")
    three = draw("published.pth", "--mask-ratio", "0.5", "0.75", "0.9")
    assert three.width == one.width >= 4 * 320
    assert 2.6 * one.height < three.height < 3 * one.height


def test_groups_follow_the_ratio_the_run_or_the_method(draw: Draw) -> None:
    def panels(*options: str) -> int:
        return round(draw(*options).width / 320)

    assert panels("pretrained.pth") == 3  # the run's ratio is 0.5: input and two groups
    assert panels("pretrained.pth", "--mask-ratio", "0.75") == 5
    assert panels("three_groups.safetensors") == 4  # the run's groups
    assert panels("three_groups.safetensors", "--mask-ratio", "0.75") == 5
    assert panels("published.pth") == 4  # one view
    assert panels("published.pth", "--method", "fastconvmae", "--mask-ratio", "0.8") == 6
    assert panels("pretrained.pth", "--method", "convmae") == 4
    assert panels("mae.pth") == 4


@pytest.mark.parametrize("weights", ["pretrained.pth", "encoder.pth", "finetuned.safetensors", "published.pth"])
def test_features_and_attention_need_an_encoder_alone(draw: Draw, weights: str) -> None:
    assert round(draw(weights, "--features", kind="features").width / 320) == 4
    assert round(draw(weights, "--attention", kind="attention").width / 320) == 2


@pytest.mark.parametrize("weights", ["vit.pth", "mae.pth"])
def test_a_plain_vit_has_one_map(draw: Draw, weights: str) -> None:
    assert round(draw(weights, "--features", kind="features").width / 320) == 2
    assert round(draw(weights, "--attention", kind="attention").width / 320) == 2


def test_whole_pictures_keep_their_shape(draw: Draw) -> None:
    for kind in ("reconstructions", "features", "attention"):
        options = [f"--{kind}"] if kind != "reconstructions" else []
        square = draw("pretrained.pth", "--size", "48", *options, kind=kind)
        whole = draw("pretrained.pth", "--size", "48", "--whole", *options, kind=kind)
        assert whole.width == pytest.approx(1.5 * square.width, rel=0.02)  # of the wide picture


def test_each_query_has_a_row(draw: Draw) -> None:
    def height(*options: str) -> int:
        return draw("encoder.pth", "--attention", "--limit", "1", *options, kind="attention").height

    two, four = height("--query", "0,0", "1,3"), height("--query", "0,0", "1,3", "3,3", "2,1", "--block", "0")
    assert four - two == pytest.approx(2 * 340, abs=60)


def test_the_same_command_draws_the_same(draw: Draw) -> None:
    for kind, option in {"reconstructions": "--seed=3", "features": "--features", "attention": "--attention"}.items():
        first, second = (np.asarray(draw("pretrained.pth", option, "--limit=1", kind=kind)) for _ in range(2))
        assert np.array_equal(first, second)
    other = np.asarray(draw("pretrained.pth", "--seed=4", "--limit=1"))
    assert not np.array_equal(other, np.asarray(draw("pretrained.pth", "--seed=3", "--limit=1")))


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ("encoder.pth", [], "holds no decoder"),
        ("finetuned.safetensors", [], "holds no decoder"),
        ("none.pth", [], "There is no checkpoint"),
        ("none.pth", ["--features"], "There is no checkpoint"),
        ("pretrained.pth", ["--mask-ratio", "1"], "mask_ratio is 1.0"),
        ("published.pth", ["--mask-ratio", "0.5", "0.99"], "keeps 0 of 16 tokens"),
        ("published.pth", ["--mask-ratio", "0"], "keeps 16 of 16 tokens"),
        ("pretrained.pth", ["--mask-ratio", "0.99"], "100 complementary groups of 16 tokens"),
        ("encoder.pth", ["--attention", "--query", "1,1", "4,0"], "no patch 4,0 in a grid of 4 x 4"),
        ("encoder.pth", ["--attention", "--query", "1;1"], "expected a patch's row and column, as 3,4"),
        ("encoder.pth", ["--attention", "--block", "2"], "no block 2; expected 0 to 1"),
        ("part.pth", ["--features"], "holds no whole ConvViT"),
        ("segmenter.pth", ["--attention"], "as detectors and segmenters have"),
        ("segmenter.pth", ["--features"], "as detectors and segmenters have"),
        ("encoder.pth", ["--features", "--mask-ratio", "0.5"], "--mask-ratio is for reconstructions, not for features"),
        ("pretrained.pth", ["--block", "0"], "--block is for attention, not for reconstructions"),
        ("pretrained.pth", ["--size", "8"], "expected at least 16"),
        ("pretrained.pth", ["--limit", "0"], "expected at least 1"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    draw: Draw, weights: str, options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert draw.status(weights, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(Path().glob("*.png"))


def test_pictures_must_be_there_and_the_output_must_not(draw: Draw, capsys: pytest.CaptureFixture) -> None:
    assert draw.status("encoder.pth", "--features", pictures="empty") == 2
    assert "holds no pictures" in capsys.readouterr().err
    assert draw.status("encoder.pth", "--features", pictures="pictures/none.png") == 2
    assert "There is no picture" in capsys.readouterr().err
    assert draw.status("encoder.pth", "--features", "--output", "new/drawn.png") == 0
    assert Path("new/drawn.png").is_file()
    assert draw.status("encoder.pth", "--features", "--output", "new/drawn.png") == 2
    assert "--overwrite" in capsys.readouterr().err


def test_only_one_kind_of_picture_at_once(draw: Draw) -> None:
    with pytest.raises(SystemExit, match="2"):
        draw.status("encoder.pth", "--features", "--attention")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.foo", "expected the name of a picture"),
        ("", "expected the name"),
        ("file/x.png", "can't be written: File exists. Give another place by --output"),
    ],
)
def test_an_output_that_can_not_be_written_is_said(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, said: str
) -> None:
    (tmp_path / "file").touch()
    argv = [str(files / "encoder.pth"), str(files / "pictures"), "--features", "--output", str(tmp_path / name)]
    assert visualize.main([*argv, "--overwrite"]) == 2
    assert said in capsys.readouterr().err
