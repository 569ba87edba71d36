"""Views as options of a run: what is refused, what older runs have, what log and report say, the same numbers anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_detector import tiny_config, write_run

from convmae.detection.config import DetectionConfig
from convmae.detection.predict import Predictor
from convmae.detection.train import test as run_test
from convmae.detection.train import train
from convmae.engine.config import load_config, run_config
from convmae.engine.errors import UserError

VIEWS = ("inference.flip=true", "inference.scales=[1.0,1.5]")


def rows(work_dir: Path) -> list[dict[str, Any]]:
    """The detections of a run or test."""
    found: list[dict[str, Any]] = json.loads((work_dir / "detections.json").read_text())["annotations"]
    assert found
    return found


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        ("[]", r"inference\.scales is \[\]; expected 1 to 16 factors above 0"),
        ("[1.0,0.0]", r"inference\.scales is \[1\.0, 0\.0\]; expected 1 to 16 factors above 0"),
        ("[-1.0]", r"inference\.scales is \[-1\.0\]; expected 1 to 16 factors above 0"),
        ("[1.0,.nan]", r"inference\.scales is \[1\.0, nan\]; expected finite numbers"),
        ("[.inf]", r"inference\.scales is \[inf\]; expected finite numbers"),
        (str([1.0] * 17), r"inference\.scales is a list of 17; expected 1 to 16"),
        ("[1.0,0.4]", r"inference\.scales has 0\.4, which makes a square of 25\.6 pixels .*; expected 32 to 8192"),
        ("[1e308,1]", r"inference\.scales has 1e\+308, which makes a square of inf pixels .*; expected 32 to 8192"),
        ("[129]", r"inference\.scales has 129, which makes a square of 8256 pixels of data\.img_size=64; expected 32"),
        ("1.0", r"inference\.scales"),
        ("[large]", r"inference\.scales"),
    ],
)
def test_scales_that_make_no_square_are_refused_by_every_tool(split: Path, scales: str, said: str) -> None:
    write_run(split)
    for start in (
        lambda: train(tiny_config(split, f"inference.scales={scales}"), split / "run", resume=False),
        lambda: run_test(tiny_config(split, f"inference.scales={scales}"), split / "model.pth", split / "test"),
        lambda: Predictor(
            run_config(DetectionConfig, split / "model.pth", None, [f"inference.scales={scales}"]), split / "model.pth"
        ),
    ):
        with pytest.raises(UserError, match=said) as caught:
            start()
        assert "\n" not in str(caught.value)


def test_a_recipe_of_before_has_the_picture_as_its_only_view(split: Path) -> None:
    write_run(split)
    recipe = split / "config.yaml"
    kept, _, rest = recipe.read_text().partition("inference:\n")
    recipe.write_text(kept + rest[rest.index("optim:") :])
    before = load_config(DetectionConfig, recipe)
    assert "inference" not in recipe.read_text()
    assert before.inference.sides(before.data.img_size) == (64,)
    assert not before.inference.flip
    assert run_config(DetectionConfig, split / "model.pth", str(recipe), VIEWS).inference.sides(64) == (64, 96)


def test_validation_in_training_a_test_and_a_larger_batch_see_the_same_views(
    split: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "convmae")
    (split / "run").mkdir()
    train(tiny_config(split, *VIEWS), split / "run", resume=False)
    metrics = json.loads((split / "run" / "metrics.json").read_text())
    wanted = {name: pytest.approx(value, abs=1e-6) for name, value in metrics.items() if "_" in name}
    config = run_config(DetectionConfig, split / "run" / "model.pth")
    assert config.inference.flip
    again = split / "test"
    again.mkdir()
    assert run_test(config, split / "run" / "model.pth", again) == wanted
    whole = rows(split / "run")
    assert rows(again) == whole
    config.data.eval_batch_size = 3  # of four pictures
    assert run_test(config, split / "run" / "model.pth", again) == wanted
    assert [row["score"] for row in rows(again)] == pytest.approx([row["score"] for row in whole], abs=1e-5)
    said = "4 a picture, scale 1, 1.5, mirrored too"
    for work_dir in (split / "run", again):
        assert said in (work_dir / "report/index.html").read_text()
    assert caplog.text.count(f"validation views: {said}") == 3
    config.inference.flip, config.inference.scales = False, [1.0]
    run_test(config, split / "run" / "model.pth", again)
    assert "1 a picture, scale 1<" in (again / "report/index.html").read_text()
    assert [row["score"] for row in rows(again)] != [row["score"] for row in whole]
