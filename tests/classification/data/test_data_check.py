"""The check of class folders finds all that is wrong at once, in training's words; a run may skip what can't be read."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from convmae.classification.config import AugmentationOptions, FolderOptions
from convmae.classification.data.dataset import TrainSet, read_splits
from convmae.engine.errors import UserError
from convmae.engine.seeding import SampleKey
from convmae.engine.training.unreadable import SkippingDataset
from convmae.tools import check_data


def check(root: Path, *options: str) -> int:
    argv = ["cls", str(root), "--work-dir", str(root.parent / "check"), "--overwrite"]
    return check_data.main([*argv, *(["--cfg-options", *options] if options else [])])


def found(root: Path, split: str) -> dict[str, list[str]]:
    """The messages by kind in the file that lists all."""
    kinds: dict[str, list[str]] = {}
    for fault in json.loads((root.parent / "check/metrics.json").read_text())[split]["faults"]:
        kinds.setdefault(fault["kind"], []).append(fault["message"])
    return kinds


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def test_folders_in_order_pass(folders: Path, capsys: pytest.CaptureFixture) -> None:
    assert check(folders) == 0
    said = capsys.readouterr().out
    assert "training data: 24 pictures of 2 classes, long side 40 pixels" in said
    assert "24 pictures looked at and in order: 24 RGB" in said
    assert "nothing would stop training" in said
    numbers = json.loads((folders.parent / "check/metrics.json").read_text())
    assert numbers["training"]["classes"] == {"bright left half": 12, "right": 12}
    assert numbers["validation"]["sizes"] == {"40x32": 10}
    page = (folders.parent / "check/report/index.html").read_text(encoding="utf-8")
    for text in ("Samples, training", "bright left half", "40 x 32", "None was found"):
        assert text in page


def test_all_that_is_wrong_is_found_at_once(folders: Path, capsys: pytest.CaptureFixture) -> None:
    cut(folders / "train/left/1.png")
    (folders / "val/right/2.png").write_bytes(b"no picture")
    (folders / "train/empty").mkdir()
    (folders / "train/logs").mkdir()
    shutil.copy(folders / "train/left/2.png", folders / "train/right/copy.png")
    shutil.copy(folders / "train/left/3.png", folders / "val/right/again.png")
    Image.new("L", (50, 20), 90).save(folders / "val/left/grey.png")
    assert check(folders) == 1
    training, validation = found(folders, "training"), found(folders, "validation")
    assert [Path(message.split()[0]).name for message in training["class folders without pictures"]] == [
        "empty",
        "logs",
    ]
    assert "left/1.png can't be read" in training["unreadable pictures"][0]
    assert "right/2.png can't be read" in validation["unreadable pictures"][0]
    assert len(training["pictures in two classes"]) == 1
    assert "was learnt as 'left'" in validation["pictures that are of another class in training"][0]
    assert "has the class folder 'empty'" in validation["class folders in one split alone"][0]
    assert "and 1 more differ" in validation["class folders in one split alone"][0]
    assert "10 RGB, 1 grey" in capsys.readouterr().out
    with pytest.raises(UserError) as refused:  # in the same words
        read_splits(FolderOptions(root=str(folders)))
    assert str(refused.value).splitlines() == training["class folders without pictures"]


@pytest.mark.parametrize(("name", "said"), [("nowhere", "There is no folder"), ("train/left", "no class folders")])
def test_what_holds_no_classes_is_a_fault(name: str, said: str, folders: Path) -> None:
    assert check(folders, f"data.train={name}") == 1
    assert said in found(folders, "training")["class folders that can't be used"][0]
    assert found(folders, "validation") == {}


def test_where_a_run_is_to_skip_what_can_not_be_read_the_check_says_so(folders: Path) -> None:
    cut(folders / "train/left/1.png")
    assert check(folders, "data.on_bad_image=skip", "data.bad_share=0.05") == 0
    assert check(folders, "data.on_bad_image=skip", "data.bad_share=0.01") == 1
    assert check(folders, "data.bad_share=0.05") == 1
    training, _ = read_splits(FolderOptions(root=str(folders)))
    index = [path.name for path, _ in training.pictures].index("1.png")
    dataset = SkippingDataset(TrainSet(training, AugmentationOptions(), 32), 0, skip=True)
    drawn = dataset[SampleKey(0, index)]
    assert list(drawn.unread) == [index]
    assert drawn.sample["images"].shape == (3, 32, 32)
    with pytest.raises(UserError, match=r"1\.png can't be read"):
        SkippingDataset(dataset.dataset, 0, skip=False)[SampleKey(0, index)]
