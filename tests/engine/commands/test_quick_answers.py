"""Help, mistakes in typing and small data checks are answered without PyTorch and what rests on it, which take seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convmae.backbones import FAMILIES
from convmae.backbones.convvit import SIZES
from convmae.backbones.weights.weight_files import split_choice
from convmae.classification.config import FinetuningConfig
from convmae.engine import options
from convmae.engine.config import describe
from convmae.engine.files import file_of
from convmae.pretraining import METHODS
from convmae.pretraining.config import METHOD_NAMES
from convmae.tools import cli
from convmae.tools.benchmark import COMPARISONS

SLOW = ("torch", "torchvision", "timm", "mmengine", "mmseg", "mmdet", "mmcv", "matplotlib", "hotcoco", "pycocotools")
# Runs each call of the list [[tool, word, ...], ...] and prints [[status, what it said, slow packages that are read], ...].
CALLS = """
import contextlib, importlib, io, json, sys
answers = []
for tool, *words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = importlib.import_module(f"convmae.tools.{tool}").main(words)
        except SystemExit as end:
            status = end.code
    answers.append([status, said.getvalue(), [name for name in json.loads(sys.argv[2]) if name in sys.modules]])
print(json.dumps(answers))
"""


def answers(calls: list[list[str]], cwd: Path) -> list[tuple[int, str, list[str]]]:
    words = [sys.executable, "-c", CALLS, json.dumps(calls), json.dumps(SLOW)]
    done = subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"}
    )
    return [(status, said, slow) for status, said, slow in json.loads(done.stdout)]


def test_help_needs_nothing_slow(tmp_path: Path) -> None:
    calls = [[tool, "--help"] for tool in cli.TOOLS]
    calls += [["check_data", one, "--help"] for one in ("pictures", "cls", "coco", "seg")]
    calls += [["predict", one, "--help"] for one in ("det", "seg")]
    calls += [["benchmark", one, "--help"] for one in COMPARISONS]
    for call, (status, said, slow) in zip(calls, answers(calls, tmp_path), strict=True):
        assert status == 0, said
        assert "usage:" in said
        assert not slow, call


RUNS = ("pretrain", "finetune", "train_det", "train_seg", "linear_probe", "knn")
MISTAKES: list[tuple[list[str], int, str]] = [
    *(([tool, "--no-such-option"], 2, "usage:") for tool in cli.TOOLS if tool != "run_mmdet"),
    *(([tool, "--cfg-options", "model.siez=tiny"], 2, "there is no option 'model.siez'") for tool in RUNS),
    *(([tool, "--cfg-options", "data.root=gone"], 2, "There is no folder gone") for tool in RUNS),
    *(([tool, "--config", "fastconvmae_tiny_96"], 2, "Did you mean") for tool in RUNS),
    (["train_det", "--cfg-options", "data.root=.", "model.init=gone.pth"], 2, "There is no checkpoint gone.pth"),
    (["train_det", "--cfg-options", "data.root=.", "model.init=gone.pth:teacher"], 2, "There is no checkpoint"),
    (["test_det", "gone.pth"], 2, "There is no checkpoint gone.pth"),
    (["test_seg"], 2, "give the weights to test"),
    (["predict", "det", "gone.pth", "a.png"], 2, "There is no checkpoint gone.pth"),
    (["visualize", "gone.pth", "."], 2, "There is no checkpoint gone.pth"),
    (["export", "gone.pth"], 2, "gone.pth"),
    (["convert_checkpoint", "gone.pth", "out.pth", "--to", "convmae"], 2, "There is no checkpoint gone.pth"),
    (["analyze", "fastconvmae", "--img-size", "wide"], 2, "--img-size is 'wide'"),
    (["check_data", "cls", "gone"], 1, "gone"),
    (["study", "gone"], 2, "There is no folder gone"),
]


def test_mistakes_in_typing_need_nothing_slow(tmp_path: Path) -> None:
    calls = [call for call, _, _ in MISTAKES if call[0] != "check_data"]
    expected = [(status, said) for call, status, said in MISTAKES if call[0] != "check_data"]
    for call, found, (status, said) in zip(calls, answers(calls, tmp_path), expected, strict=True):
        assert found[0] == status, found[1]
        assert said in found[1], call
        assert not found[2], call


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "cls" / split / name
            folder.mkdir(parents=True)
            for index in range(2):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            folder = tmp_path / "seg" / kind / split
            folder.mkdir(parents=True)
            shape, high = ((40, 40, 3), 256) if kind == "images" else ((40, 40), 3)
            for index in range(2):
                Image.fromarray(rng.integers(0, high, shape, dtype=np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "seg" / "classes.txt").write_text("one\ntwo\n")
    for split in ("train2017", "val2017"):
        folder = tmp_path / "coco" / split
        folder.mkdir(parents=True)
        images = [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 40} for n in range(2)]
        for image in images:
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / image["file_name"])
        box = {"category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
        outline = {"segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
        found = {
            "images": images,
            "categories": [{"id": 1, "name": "one"}],
            "annotations": [{"id": n + 1, "image_id": n, **box, **outline} for n in range(2)],
        }
        annotations = tmp_path / "coco" / "annotations" / f"instances_{split}.json"
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps(found))
    return tmp_path


@pytest.mark.parametrize("kind", ["pictures", "cls", "seg", "coco"])
def test_a_small_data_check_needs_no_pytorch(kind: str, small_data: Path) -> None:
    folder = "cls" if kind == "pictures" else kind
    ((status, said, slow),) = answers([["check_data", kind, folder]], small_data)
    assert status == 0, said
    assert "written:" in said
    assert set(slow) <= {"matplotlib", "hotcoco", "pycocotools"}  # a second together


def test_names_that_options_list_without_pytorch_are_those_that_there_are() -> None:
    assert set(METHOD_NAMES) == set(METHODS)
    assert tuple(options.SIZES) == tuple(SIZES)
    assert f"model.arch=convvit ({'|'.join(FAMILIES)})" in describe(FinetuningConfig())


@pytest.mark.parametrize("given", ["a.pth", "a.pth:teacher", "a:b.pth", "a:b.pth:c", "gone.pth:teacher", "gone.pth"])
def test_a_file_is_found_as_reading_it_does(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "a:b.pth"):
        Path(name).touch()
    assert file_of(given) == split_choice(given)[0]
