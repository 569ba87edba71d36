"""A head serves the classes that it was trained on, by name and order; weights are chosen among several in one file."""

import unicodedata
from pathlib import Path

import pytest
import torch

from convmae.backbones import ConvViT
from convmae.classification.config import FinetuningConfig
from convmae.classification.train import finetune
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.files import save_weights
from convmae.tools import knn, test_cls


def tiny_config(folders: Path, *overrides: str) -> FinetuningConfig:
    return load_config(
        FinetuningConfig,
        "finetune_tiny_96px.yaml",
        [
            f"data.root={folders}", "model.img_size=32", "data.batch_size=8", "data.workers=0", "schedule.epochs=null",
            "schedule.steps=1", "schedule.warmup=0", "schedule.eval_every=0", "schedule.save_every=1",
            "runtime.device=cpu", "runtime.precision=fp32", *overrides,
        ],
    )  # fmt: skip


def rename(folders: Path, before: str, after: str) -> None:
    for split in ("train", "val"):
        (folders / split / before).rename(folders / split / after)


def classifier(path: Path, folders: list[str] | None) -> dict[str, torch.Tensor]:
    """Writes a classifier whose file names its class folders, and returns its weights."""
    torch.manual_seed(3)
    state = ConvViT("tiny", num_classes=2, img_size=32).state_dict()
    meta = {"dataset_meta": {"classes": [name.upper() for name in folders], "folders": folders}} if folders else {}
    save_weights(state, path, meta=meta)
    return state


def head_after_no_step(config: FinetuningConfig, work_dir: Path) -> torch.Tensor:
    """The head that a run starts from: a rate of zero leaves it."""
    work_dir.mkdir()
    config.optim.lr = 0.0
    finetune(config, work_dir, resume=False)
    return torch.load(work_dir / "model.pth", weights_only=True)["model"]["head.weight"]


def test_a_run_is_not_continued_on_other_folders(folders: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    finetune(tiny_config(folders), work_dir, resume=False)
    (folders / "classes.txt").write_text("left\tanother readable name\n")
    finetune(tiny_config(folders, "schedule.steps=2"), work_dir, resume=True)
    rename(folders, "left", "up")
    with pytest.raises(
        UserError, match=r"step_2\.pth was trained on class folders with 'left' where the data has 'right'"
    ):
        finetune(tiny_config(folders, "schedule.steps=3"), work_dir, resume=True)
    assert torch.load(work_dir / "model.pth", weights_only=True)["meta"]["dataset_meta"]["folders"] == ["left", "right"]


@pytest.mark.parametrize(
    ("known", "taken"),
    [(["left", "right"], True), (None, True), (["right", "left"], False), (["cat", "dog"], False)],
)
def test_a_head_of_other_classes_is_left_out_of_a_new_run(
    known: list[str] | None, taken: bool, folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = classifier(tmp_path / "other.pth", known)
    head = head_after_no_step(tiny_config(folders, f"model.init={tmp_path / 'other.pth'}"), tmp_path / "run")
    assert torch.equal(head, state["head.weight"]) == taken
    assert ("its head is left out" in caplog.text) != taken
    encoder = torch.load(tmp_path / "run" / "model.pth", weights_only=True)["model"]["blocks3.0.attn.qkv.weight"]
    assert torch.equal(encoder, state["blocks3.0.attn.qkv.weight"])


def test_folders_of_another_unicode_form_are_the_same_classes(folders: Path, tmp_path: Path) -> None:
    rename(folders, "left", unicodedata.normalize("NFD", "bär"))
    classifier(tmp_path / "model.pth", [unicodedata.normalize("NFC", "bär"), "right"])
    options = ["--config", "finetune_tiny_96px.yaml", "--cfg-options", f"data.root={folders}", "model.img_size=32"]
    options += ["runtime.device=cpu", "data.workers=0"]
    assert test_cls.main([str(tmp_path / "model.pth"), *options]) == 0


def test_one_of_several_models_in_a_file_is_fine_tuned_tested_and_probed(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first, second = (classifier(tmp_path / f"{name}.pth", None) for name in ("student", "teacher"))
    second = {name: value + 0.01 if value.is_floating_point() else value for name, value in second.items()}
    both = tmp_path / "both.pth"
    torch.save({"student": first, "teacher": second, "epoch": 3}, both)
    head = head_after_no_step(tiny_config(folders, f"model.init={both}:teacher"), tmp_path / "run")
    assert torch.equal(head, second["head.weight"])
    usual = ["--cfg-options", f"data.root={folders}", "model.img_size=32", "runtime.device=cpu", "data.workers=0"]
    assert test_cls.main([f"{both}:teacher", "--config", "finetune_tiny_96px.yaml", *usual]) == 0
    assert (tmp_path / "test" / "metrics.json").is_file()
    probe = ["--config", "probe_96px.yaml", *usual, "knn.ks=[3]", f"model.features={tmp_path / 'features'}"]
    for number, key in enumerate(("student", "teacher"), 1):
        assert knn.main([*probe, f"model.init={both}:{key}", "--work-dir", str(tmp_path / "knn"), "--overwrite"]) == 0
        assert len(list((tmp_path / "features").iterdir())) == 2 * number  # the other model's are not taken
    for cut in (tmp_path / "features").glob("val_*"):
        cut.write_bytes(cut.read_bytes()[:20])
    assert knn.main([*probe, f"model.init={both}:teacher", "--work-dir", str(tmp_path / "knn"), "--overwrite"]) == 0
    assert "is damaged and made anew" in capsys.readouterr().out
    assert test_cls.main([f"{both}:tutor", "--config", "finetune_tiny_96px.yaml", *usual, "--overwrite"]) == 2
    assert "has nothing under 'tutor'; found 'student', 'teacher', 'epoch'" in capsys.readouterr().err
    assert test_cls.main([f"{tmp_path / 'none.pth'}:teacher", *usual]) == 2
    assert "There is no checkpoint" in capsys.readouterr().err
