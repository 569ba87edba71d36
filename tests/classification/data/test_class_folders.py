"""Which folders are classes and which pictures theirs, and what is said of the rest."""

import json
import logging
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.backbones import ConvViT
from convmae.classification.config import FolderOptions
from convmae.classification.data.dataset import read_split, read_splits
from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Remark
from convmae.tools import knn


def said(remarks: list[Remark]) -> dict[str, Remark]:
    return {remark.kind: remark for remark in remarks}


def test_data_in_order_is_read_without_a_remark(folders: Path) -> None:
    train, val = read_splits(FolderOptions(root=str(folders)))
    assert (train.remarks, val.remarks) == ([], [])
    expected = [path for name in ("left", "right") for path in sorted((folders / "train" / name).iterdir())]
    assert [path for path, _ in train.pictures] == expected
    assert [label for _, label in train.pictures] == [0] * 12 + [1] * 12


def test_what_no_class_folder_holds_is_said(folders: Path) -> None:
    shutil.copy(folders / "val" / "left" / "0.png", folders / "train" / "loose.png")
    for name in (".git/a.png", "__MACOSX/left/._0.png", ".ipynb_checkpoints/0.png"):
        (folders / "train" / name).parent.mkdir(parents=True)
        (folders / "train" / name).touch()
    (folders / "train" / "left" / "0.heic").touch()
    train = read_split(FolderOptions(root=str(folders)), "train")
    assert train.folders == ["left", "right"]
    assert len(train.pictures) == 24
    remarks = said(train.remarks)
    assert (
        "1 pictures lie beside the class folders" in remarks["folders with pictures beside the class folders"].first[0]
    )
    assert "1 file of other endings passed over: 1 .heic" in remarks["folders with files that may be pictures"].first[0]


def test_a_folder_without_pictures_is_no_class(folders: Path) -> None:
    (folders / "train" / "logs").mkdir()
    (folders / "train" / "logs" / "log.txt").touch()
    with pytest.raises(UserError, match=r"train/logs holds no pictures; remove the folder if it is no class"):
        read_split(FolderOptions(root=str(folders)), "train")


def test_classes_a_level_too_deep_are_named(folders: Path) -> None:
    (folders / "train").rename(folders / "deep")
    (folders / "train").mkdir()
    (folders / "deep").rename(folders / "train" / "train")
    with pytest.raises(UserError, match=r"one class folder, 'train'.*are its 2 the classes\? Then move them up"):
        read_splits(FolderOptions(root=str(folders)))


@pytest.mark.parametrize("other", ["Left", "left ", "le ft"])
def test_names_that_differ_in_case_or_spaces_alone_are_named(folders: Path, other: str) -> None:
    (folders / "val" / "left").rename(folders / "val" / other)
    with pytest.raises(
        UserError, match=f"has {other!r}, which differs in case, spaces or dashes alone|has 'left', which"
    ):
        read_splits(FolderOptions(root=str(folders)))


def test_names_alike_in_one_split_are_doubtful(folders: Path) -> None:
    for part in ("train", "val"):
        shutil.copytree(folders / part / "left", folders / part / "Left")
    train, _ = read_splits(FolderOptions(root=str(folders)))
    remarks = said(train.remarks)
    assert remarks["class folders with names alike"].effect is Effect.DOUBTFUL
    assert remarks["pictures in two classes"].count == 12


def test_one_name_in_two_unicode_forms_is_one_class(folders: Path) -> None:
    """As where one split was packed on a Mac; the labels are those of the names, not of their bytes."""
    composed, other = (
        unicodedata.normalize("NFC", "caf\u00e9"),
        "cafz",
    )  # decomposed it sorts before this, composed after
    decomposed = unicodedata.normalize("NFD", composed)
    assert sorted([composed, other]) != [unicodedata.normalize("NFC", name) for name in sorted([decomposed, other])]
    for part, name in (("train", composed), ("val", decomposed)):
        (folders / part / "left").rename(folders / part / name)
        (folders / part / "right").rename(folders / part / other)
    train, val = read_splits(FolderOptions(root=str(folders)))
    for split in (train, val):
        assert {split.folders[label] for path, label in split.pictures if path.parent.name == other} == {other}
    assert train.folders.index(other) == val.folders.index(other)
    shutil.copytree(folders / "val" / decomposed, folders / "val" / composed)
    with pytest.raises(UserError, match=r"two class folders .* in two Unicode forms"):
        read_splits(FolderOptions(root=str(folders)))


def test_a_class_folder_may_be_a_link(folders: Path) -> None:
    (folders / "train" / "left").rename(folders / "store")
    (folders / "train" / "left").symlink_to("../store")
    train = read_split(FolderOptions(root=str(folders)), "train")
    assert len(train.pictures) == 24
    assert train.remarks == []


def test_splits_that_share_pictures_are_warned_of(
    folders: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("convmae"), "propagate", True)
    shutil.copy(folders / "train" / "left" / "3.png", folders / "val" / "left" / "copy.png")
    _, val = read_splits(FolderOptions(root=str(folders)))
    assert said(val.remarks)["pictures that are training pictures, too"].count == 1
    assert "val data: 1 pictures that are training pictures, too" in caplog.text
    _, val = read_splits(FolderOptions(root=str(folders), val="train"))
    assert said(val.remarks).keys() == {"splits that are one and the same"}


def test_nearest_neighbours_of_random_labels_are_no_better_than_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The training pictures as validation: by itself each would be found, whatever its label."""
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "data" / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    torch.manual_seed(0)
    torch.save({"model": ConvViT("tiny", num_classes=0).state_dict()}, tmp_path / "encoder.pth")
    options = ["--config", "probe_96px.yaml", "--work-dir", str(tmp_path / "knn"), "--cfg-options", "data.val=train"]
    options += [f"data.root={tmp_path / 'data'}", "model.img_size=32", f"model.init={tmp_path / 'encoder.pth'}"]
    options += [f"model.features={tmp_path / 'features'}", "knn.ks=[1,5]", "data.workers=0", "runtime.device=cpu"]
    assert knn.main(options) == 0
    assert json.loads((tmp_path / "knn" / "metrics.json").read_text())["top1"] < 0.8
    assert "60 validation pictures are training pictures, too: none is counted" in capsys.readouterr().out
    page = (tmp_path / "knn" / "report" / "index.html").read_text()
    assert "none is its own neighbour" in page
    assert "the numbers tell what was learnt by heart" in page
