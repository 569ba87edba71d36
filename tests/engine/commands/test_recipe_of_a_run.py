"""Which recipe a run takes: the given, the default, or its own, once it is continued; and what --help shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from convmae.engine.safe_yaml import parse_yaml
from convmae.tools import pretrain, train_det, train_seg

RECIPE = "fastconvmae_tiny_96px.yaml"


@pytest.fixture
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of a step on a blank picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "pictures" / "a.png")
    options = ["data.root=pictures", "model.img_size=32", "data.batch_size=1", "data.workers=0", "schedule.steps=1"]
    options += ["model.decoder_depth=1", "runtime.device=cpu", "runtime.precision=fp32"]
    assert pretrain.main(["--config", RECIPE, "--work-dir", "run", "--cfg-options", *options]) == 0
    return tmp_path / "run"


def config(work_dir: Path) -> dict:
    return parse_yaml((work_dir / "config.yaml").read_text(), "config.yaml")


def test_a_run_is_continued_by_its_folder_alone(work_dir: Path, capsys: pytest.CaptureFixture) -> None:
    before = config(work_dir)
    assert (before["schedule"]["steps"], before["schedule"]["epochs"]) == (1, None)
    assert pretrain.main(["--work-dir", "run", "--resume"]) == 0
    assert config(work_dir) == before
    assert pretrain.main(["--work-dir", "run", "--resume", "--cfg-options", "schedule.steps=2"]) == 0
    said = capsys.readouterr().out + (work_dir / "log.txt").read_text()
    assert "continues with the options in run/config.yaml" in said
    assert "continues from step_1.pth" in said
    assert "continues with schedule.steps 2, not 1 as before" in said
    assert (work_dir / "step_2.pth").is_file()


def test_where_nothing_tells_what_is_continued_it_is_refused(work_dir: Path, capsys: pytest.CaptureFixture) -> None:
    (work_dir / "config.yaml").unlink()
    for folder in ("run", "gone"):
        assert pretrain.main(["--work-dir", folder, "--resume"]) == 2
        assert f"There is no {folder}/config.yaml" in capsys.readouterr().err
    assert not Path("gone").exists()


def test_another_tools_run_is_refused(work_dir: Path, capsys: pytest.CaptureFixture) -> None:
    assert train_det.main(["--work-dir", "run", "--resume"]) == 2
    assert "a run of another tool is continued by that tool" in capsys.readouterr().err


def test_overwriting_what_is_continued_is_refused(work_dir: Path, capsys: pytest.CaptureFixture) -> None:
    assert pretrain.main(["--work-dir", "run", "--resume", "--overwrite"]) == 2
    assert "give one of them" in capsys.readouterr().err


@pytest.mark.parametrize("first", [True, False])
def test_help_shows_the_values_of_the_recipe(first: bool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.yaml").write_text("_base_: upernet_tiny_camvid.yaml\nmodel:\n  decode_channels: 77\n")
    words = ["--config", str(tmp_path / "mine.yaml")]
    words = ["--help", *words] if first else [*words, "--help"]
    with pytest.raises(SystemExit) as end:
        train_seg.main([*words, "--cfg-options", "model.size=small"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert f"options as {tmp_path / 'mine.yaml'} has them" in said
    for line in (
        "  model.decode_channels=77 (int):",
        "  schedule.steps=1500 (int or null):",
        "  model.size=small (tiny|",
    ):
        assert line in said


def test_help_of_a_recipe_that_is_none_says_so(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        train_seg.main(["--config", "upernet_tiny", "--help"])
    assert end.value.code == 2
    assert "Did you mean upernet_tiny_" in capsys.readouterr().err
