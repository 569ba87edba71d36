"""The commands of README and tutorial run, in their order, shortened."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from tiny_detector import write_run

from convmae.backbones import ConvViT
from convmae.engine.pictures import scenes
from convmae.pretraining import ConvMAE
from convmae.pretraining.teachers import TIMM_NAMES
from convmae.tools import cli

PROJECT = Path(__file__).resolve().parents[2]
README, TUTORIAL = PROJECT / "README.md", PROJECT / "docs" / "tutorial.md"
TINY = {"embed_dims": (16, 16, 32), "depths": (1, 1, 2), "num_heads": 2}
SHORT = ["data.workers=0", "schedule.epochs=null", "schedule.steps=2", "schedule.warmup=0", "data.batch_size=2"]
SMALL_HEADS = ["inference.stride=48", "model.decode_channels=16", "model.aux_channels=16"]
SHORTENED = {
    "pretrain": [*SHORT, "model.size=tiny", "model.img_size=32"],
    "finetune": [*SHORT, "model.size=tiny", "model.img_size=32"],
    "linear_probe": ["data.workers=0", "model.img_size=32", "linear.epochs=2", "linear.warmup=1"],
    "knn": ["data.workers=0", "model.img_size=32"],
    "train_det": [*SHORT, "model.size=tiny", "data.img_size=64", "model.fpn_channels=16", "model.norm=gn"],
    "train_seg": [*SHORT, "model.size=tiny", "data.crop=64", "data.scale=[128,64]", "inference.crop=64", *SMALL_HEADS],
    "test_det": ["data.workers=0"],
    "test_cls": ["data.workers=0"],
    "test_seg": ["data.workers=0"],
}

BRIEF = ["--repeats", "1", "--threads", "1", "--img-size", "32", "--batch-size", "2"]
OTHERS = {
    "visualize": ["--size", "32", "--limit", "2"],
    "analyze": ["--size", "tiny", "--img-size", "64"],
    "scenes": ["--train", "4", "--val", "2", "--unlabelled", "0", "--size", "64"],
    "export": [],
    "benchmark pretrain": [*BRIEF, "--size", "tiny", "--method", "convmae", "--precision", "fp32"],
    "benchmark loading": [*BRIEF, "--workers", "0"],
    "benchmark detection": [
        *("--repeats", "1", "--threads", "1", "--size", "tiny", "--pixels", "64", "--precision", "fp32"),
        *("--tables", "comparison"),
    ],
    "benchmark segmentation": [
        *("--repeats", "1", "--threads", "1", "--size", "tiny", "--pixels", "80", "--precision", "fp32", "--map", "64"),
        *("--tables", "comparison", "counting"),
    ],
    "benchmark gpu": ["--repeats", "1", "--threads", "1", "--items", "machine"],
    "benchmark steps": ["--tables", "errors", "--only", "slices"],
    "benchmark evaluation": ["--repeats", "1", "--threads", "1", "--pictures", "4"],
    "worth": [
        *("--plan", "--jobs", "1", "--shares", "50", "100"),
        *("--cfg-options", "data.img_size=64", "data.batch_size=2", "model.fpn_channels=16", "runtime.precision=fp32"),
        *("--pretrain-options", "model.img_size=32", "data.batch_size=2", "runtime.precision=fp32"),
    ],
    "check_data": [],
    "predict": [],
}


def blocks(document: Path, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind == language]


def commands(document: Path, first: str) -> list[list[str]]:
    lines = [line for block in blocks(document) for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(first)]


def run_tools(document: Path) -> list[str]:
    """Runs the document's calls of tools, shortened, and returns the tools' names."""
    done = []
    for _, script, *options in commands(document, "python tools/"):
        tool = Path(script).stem
        kind = f"{tool} {options[0]}" if tool == "benchmark" else tool
        short = ["--cfg-options", *SHORTENED[tool]] if tool in SHORTENED else OTHERS[kind]
        assert cli.main([tool, *options, *short]) == 0, options
        done.append(tool)
    return done


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data where the README's commands expect it."""
    made = scenes.generate(tmp_path / "made", train=4, val=2, size=64)
    (tmp_path / "data").mkdir()
    for name, folder in (("images", made.images), ("coco", made.coco), ("ade20k", made.ade20k)):
        (tmp_path / "data" / name).symlink_to(folder)
    for number, picture in enumerate(sorted(made.images.rglob("*.*"))):
        split, name = ("train", "val")[number // 2 % 2], ("one", "other")[number % 2]
        (tmp_path / "data" / "imagenet" / split / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "imagenet" / split / name / picture.name).symlink_to(picture)
    for name in list(TIMM_NAMES):  # small files in place of the hub's
        monkeypatch.setitem(TIMM_NAMES, name, "vit_tiny_patch16_224")
        torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / f"{name}.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tools_run_as_the_readme_says(in_project: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the export needs the packages of the extra 'export'")
    done = run_tools(README)
    pretraining = ["check_data", "pretrain", *["visualize"] * 3, *["pretrain"] * 3]
    downstream = ["check_data", "train_det", "test_det", "predict", "check_data", "train_seg", "test_seg", "predict"]
    probes = ["check_data", "finetune", "test_cls", "linear_probe", "knn"]
    assert done == [
        *pretraining,
        *probes,
        *downstream,
        "worth",
        "visualize",
        "train_det",
        "export",
        "export",
        *["analyze"] * 2,
        *["benchmark"] * 7,
    ]
    for name in (
        "pretrain/report",
        "finetune/report",
        "linear/report",
        "knn/report",
        "det/report",
        "det/test/report",
        "seg/report",
        "seg/test/report",
    ):
        assert (in_project / "work_dirs" / name / "index.html").stat().st_size > 10_000
    assert (in_project / "reconstructions.png").is_file()


def test_the_commands_for_many_processes_name_tools_and_recipes_that_exist() -> None:
    launched = commands(README, "torchrun") + commands(README, "srun")
    assert len(launched) == 2
    for words in launched:
        script = next(word for word in words if word.endswith(".py"))
        assert (README.parent / script).is_file()
        assert "--launcher" in words
        for recipe in (word for word in words if word.endswith(".yaml")):
            assert (README.parent / "configs" / recipe).is_file()


@pytest.mark.parametrize("document", [README, *sorted((PROJECT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_recipes_and_documents_that_a_text_names_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for recipe in re.findall(r"[`\s](\w+\.yaml)[`\s]", text):
        assert recipe == "config.yaml" or (PROJECT / "configs" / recipe).is_file(), recipe
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (document.parent / target).exists(), target


def test_each_promise_names_a_test_that_exists() -> None:
    rows = re.findall(
        r"^\| (?!promise|---)(.*) \|$", (PROJECT / "docs" / "reliability.md").read_text("utf-8"), re.MULTILINE
    )
    assert rows
    for row in rows:
        promise, shown_by, _ = re.split(r" \| ?", row)
        file, _, name = shown_by.strip("`").partition("::")
        assert (PROJECT / file).is_file(), promise
        assert not name or re.search(rf"^def {name}\(", (PROJECT / file).read_text("utf-8"), re.MULTILINE), promise


def test_the_tutorial_runs_from_pictures_to_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the tutorial's last step needs the packages of the extra 'export'")
    monkeypatch.chdir(tmp_path)
    made = ["scenes", "pretrain", "pretrain", *["visualize"] * 3, "knn", "linear_probe", "finetune", "test_cls"]
    assert run_tools(TUTORIAL) == [*made, "train_det", "test_det", "train_seg", "test_seg", "export"]
    reports = ["pretrain", "knn", "linear", "finetune", "finetune/test", "det", "det/test", "seg", "seg/test"]
    for name in reports:
        assert (tmp_path / "work_dirs" / "tutorial" / name / "report" / "index.html").stat().st_size > 10_000, name
    for name in ("reconstructions.png", "features.png", "attention.png", "classifier.onnx"):
        assert (tmp_path / "work_dirs" / "tutorial" / name).is_file()
    (example,) = blocks(TUTORIAL, "python")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[(1, 64, 40, 56), (1, 128, 20, 28), (1, 256, 10, 14)]"


def test_the_python_examples_run(tmp_path: Path) -> None:
    torch.save({"model": ConvViT(TINY, num_classes=3).state_dict()}, tmp_path / "convmae_base_finetuned.pth")
    torch.save({"model": ConvMAE("base").state_dict()}, tmp_path / "convmae_base.pth")
    for folder in ("work_dirs/det", "pictures"):
        (tmp_path / folder).mkdir(parents=True)
    write_run(tmp_path / "work_dirs" / "det")
    for name in ("a.jpg", "pictures/b.png"):
        Image.new("RGB", (60, 40), (200, 60, 60)).save(tmp_path / name)
    for example, said in zip(blocks(README, "python"), ("resized", "[256, 384, 768] [4, 8, 16]", ""), strict=True):
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
