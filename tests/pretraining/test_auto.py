"""`--auto` fits a recipe to its pictures, and leaves alone what the model is made of and what was set."""

import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from convmae.engine.config import differing_options, load_config
from convmae.engine.errors import UserError
from convmae.engine.training.schedule import Schedule
from convmae.pretraining.auto import choose, fit, fitted, median_side
from convmae.pretraining.config import PretrainingConfig
from convmae.tools import pretrain

RECIPES = (
    "convmae_base_1600e.yaml",
    "convmae_tiny_96px.yaml",
    "fastconvmae_base_50e.yaml",
    "fastconvmae_tiny_mor_96px.yaml",
    "mae_tiny_96px.yaml",
    "mr_mcmae_base_400e.yaml",
)
NUMBERS = (1, 30, 451, 7_500, 120_000, 1_281_167, 14_000_000)
IMAGENET = 1_281_167


def loaded(recipe: str, *options: str) -> PretrainingConfig:
    return load_config(PretrainingConfig, recipe, options)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number, side in enumerate((40, 48, 200)):
        Image.new("RGB", (side + 10, side), (number, 90, 0)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_data_optimiser_and_schedule_are_fitted(recipe: str) -> None:
    before = loaded(recipe)
    for number, side in itertools.product(NUMBERS, (16, 96, 480, 6_000)):
        options = [f"{name}={value}" for name, value in fit(before, number, side).items()]
        changed = {name for name, _, _ in differing_options(before, loaded(recipe, *options))}
        assert changed <= {
            "data.batch_size", "data.crop_scale", "optim.lr", "optim.lr_batch",
            "schedule.epochs", "schedule.steps", "schedule.warmup",
        }  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_fewer_pictures_take_smaller_batches_and_more_epochs(recipe: str) -> None:
    config = loaded(recipe)
    found = [fit(config, number, 96) for number in NUMBERS]
    batches = [one["data.batch_size"] for one in found]
    epochs = [one["schedule.epochs"] for one in found]
    assert batches == sorted(batches)
    assert epochs == sorted(epochs, reverse=True)
    assert max(batches) == config.data.batch_size
    for number, one in zip(NUMBERS, found, strict=True):
        options = [f"{name}={value}" for name, value in one.items()]
        fitting = loaded(recipe, *options)
        schedule = Schedule.build(fitting.schedule, number, fitting.data.batch_size)
        assert schedule.total >= 4_000
        assert schedule.warmup >= 198  # steps, by a figure of three digits, however few an epoch has


def test_at_imagenet_it_is_the_published_recipe() -> None:
    for recipe in ("convmae_base_200e.yaml", "fastconvmae_base_50e.yaml"):
        config = loaded(recipe)
        found = fit(config, IMAGENET, 400)
        rate = config.optim.lr * config.data.batch_size / config.optim.lr_batch
        assert found["schedule.epochs"] == config.schedule.epochs
        assert found["data.batch_size"] == config.data.batch_size
        assert found["optim.lr"] == pytest.approx(rate)


def test_fastconvmae_takes_a_quarter_of_the_pictures_for_the_same_views() -> None:
    one, four = (fit(loaded(recipe), 451, 256) for recipe in ("convmae_tiny_96px.yaml", "fastconvmae_tiny_96px.yaml"))
    assert one["data.batch_size"] == 4 * four["data.batch_size"]
    assert one["optim.lr"] == four["optim.lr"]


def test_of_large_pictures_smaller_parts_are_cut() -> None:
    config = loaded("convmae_tiny_96px.yaml")
    assert [fit(config, 451, side)["data.crop_scale"] for side in (64, 200, 480, 10_000)] == [0.2, 0.2, 0.04, 0.01]


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        (["optim.lr=1e-3"], ["optim.lr", "optim.lr_batch"]),
        (["schedule.steps=10"], ["schedule.epochs", "schedule.warmup"]),
        (["schedule.epochs=10"], ["schedule.epochs", "schedule.warmup"]),
        (["data.crop_scale=0.5"], ["data.crop_scale"]),
    ],
)
def test_what_is_set_stays(given: list[str], left_out: list[str], pictures: Path) -> None:
    options, said = choose(loaded("convmae_tiny_96px.yaml", f"data.root={pictures}", *given), given)
    assert not {one.partition("=")[0] for one in options} & set(left_out)
    assert "3 pictures whose shorter side is 48 pixels" in said


def test_length_and_rate_go_by_a_batch_that_is_set() -> None:
    config = loaded("convmae_tiny_96px.yaml", "data.batch_size=1024")
    found = fit(config, 4_096, 96, ["data.batch_size=1024"])
    assert found["schedule.epochs"] == 4_000 * 1_024 // 4_096
    assert found["optim.lr"] == pytest.approx(1.5e-4 * 1_024 / 256)


def test_a_broken_picture_is_the_runs_affair(pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"none")
    config = loaded("convmae_tiny_96px.yaml", f"data.root={pictures}")
    assert fitted(config, [])[0].data.batch_size == 32
    with pytest.raises(UserError, match=r"broken\.png"):
        median_side([pictures / "broken.png"], config.data.reading(3))


def test_no_pictures_and_a_ratio_that_is_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pictures"):
        choose(loaded("convmae_tiny_96px.yaml", f"data.root={tmp_path}"), [])
    with pytest.raises(UserError, match="model: mask_ratio is 1"):
        fit(loaded("fastconvmae_tiny_96px.yaml", "model.mask_ratio=1.0"), 10, 96)


def test_the_tool_says_what_it_chose_and_continues_by_it(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = [f"data.root={pictures}", "model.img_size=32", "data.workers=0", "runtime.device=cpu", "schedule.steps=2"]
    argv = ["--config", "convmae_tiny_96px.yaml", "--work-dir", str(tmp_path / "run"), "--auto"]
    assert pretrain.main([*argv, "--cfg-options", *own, "runtime.precision=fp32"]) == 0
    assert "chosen for 3 pictures whose shorter side is 48 pixels at the median: data.batch_size=32" in (
        capsys.readouterr().out
    )
    kept = load_config(PretrainingConfig, tmp_path / "run" / "config.yaml")
    assert (kept.data.batch_size, kept.optim.lr, kept.schedule.steps) == (32, 4e-4, 2)
    assert json.loads((tmp_path / "run" / "scalars.jsonl").read_text().splitlines()[-1])["step"] == 2
    assert pretrain.main(["--work-dir", str(tmp_path / "run"), "--auto", "--resume"]) == 0
    assert "chosen for" not in capsys.readouterr().out
