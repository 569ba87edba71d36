"""Pictures that are not in their folder: the message tells why, in training and in the check alike."""

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tiny_detector import tiny_config

from convmae.detection.checks.data_check import check_data
from convmae.detection.data.coco import read_coco
from convmae.engine.errors import UserError
from convmae.tools import check_data as tool

Change = Callable[[Callable[[dict], Any]], Path]
NFC = unicodedata.normalize("NFC", "façade d'été.png")
NFD = unicodedata.normalize("NFD", NFC)


def rename(*names: str) -> Callable[[dict], None]:
    """An edit that gives the first pictures these names."""

    def edit(content: dict) -> None:
        for image, name in zip(content["images"], names, strict=False):
            image["file_name"] = name

    return edit


def refused(split: Path, folder: Path | None = None) -> str:
    """Returns why a split is refused."""
    with pytest.raises(UserError) as error:
        read_coco(split / "instances.json", folder or split / "images")
    return str(error.value)


def test_backslashes_are_named_whatever_folder_is_given(split: Path, change: Change) -> None:
    change(rename("images\\0.png", "images\\1.png", "images\\deep\\2.png", "images\\3.png"))
    said = refused(split)
    assert "holds none of the 4 pictures" in said
    assert "4 of them so: 'images\\0.png' differs from the file '0.png' by backslashes and the folder before it" in said
    assert "Write / between folders" in said
    assert f"'images/0.png' lies in {split}: is that the folder" in said
    said = refused(split, split)
    assert "4 of them so: 'images\\0.png' differs from the file 'images/0.png' by backslashes." in said
    assert "is that the folder" not in said
    assert "is it the right folder" not in said


def test_what_is_wrong_with_some_names_is_told_and_counted(split: Path, change: Change) -> None:
    (split / "images" / "0.png").rename(split / "images" / NFD)
    (split / "images" / "1.png").rename(split / "images" / "a b.png")
    change(rename(NFC, "a%20b.png", "..\\..\\media\\upload\\4\\2.png"))
    said = refused(split)
    assert "(image 10 of" in said
    assert "3 of 4 pictures are, 1 of them so" in said
    assert "by the Unicode form of the same letters. Composed (NFC)" in said
    assert "fac\\u0327ade d'e\\u0301te\\u0301.png" in said
    found = check_data(tiny_config(split))[0].faults
    faults = [str(fault) for fault in found if fault.kind == "missing pictures"]
    assert len(faults) == 3
    assert said in faults
    assert "differs from the file 'a b.png' by percent-encoding. Decode it" in faults[1]
    assert "differs from the file 'deep/2.png' by backslashes and the folder before it" in faults[2]


def test_either_form_of_a_name_that_is_there_is_read(split: Path, change: Change) -> None:
    (split / "images" / "0.png").rename(split / "images" / NFD)
    (split / "images" / "1.png").rename(split / "images" / unicodedata.normalize("NFC", "été 100%25.png"))
    (split / "images" / "3.png").rename(split / "images" / "a\\b.png")
    change(rename(NFD, unicodedata.normalize("NFC", "été 100%25.png"), "./deep/../deep/2.png", "a\\b.png"))
    assert len(read_coco(split / "instances.json", split / "images").images) == 4


def test_the_folder_that_names_start_from_is_told(split: Path, change: Change) -> None:
    change(lambda content: [image.update(file_name="images/" + image["file_name"]) for image in content["images"]])
    assert f"'images/0.png' lies in {split}: is that the folder" in refused(split)
    (split / "images" / "deep" / "below").mkdir()
    for name in ("0.png", "1.png", "3.png"):
        shutil.move(split / "images" / name, split / "images" / "deep" / "below" / name)
    change(rename("0.png", "1.png", "gone.png", "3.png"))
    assert f"'0.png' lies in {split / 'images' / 'deep' / 'below'}: is that the folder" in refused(split)
    change(rename("other/0.png", "other/1.png", "other/2.png", "other/3.png"))
    (split / "other").mkdir()
    (split / "other" / "0.png").touch()
    (split / "empty").mkdir()
    assert f"'other/0.png' lies in {split}: is that the folder" in refused(split, split / "empty")


def test_names_that_are_nowhere_are_told_as_such(split: Path, change: Change) -> None:
    change(rename("w.png", "x.png", "y.png", "z.png"))
    assert refused(split).endswith("(the first is w.png). Is it the right folder?")
    change(rename("w.png", "1.png", "deep/2.png", "3.png"))
    assert refused(split).endswith(
        "w.png is missing (image 10 of " + f"{split / 'instances.json'}); 1 of 4 pictures are."
    )


@pytest.mark.parametrize("name", ["\udce9.png", "a\nb.png", "a\0b.png", "x" * 300 + ".png", "%"])
def test_names_that_no_file_can_have_are_missing(
    split: Path, change: Change, name: str, capsys: pytest.CaptureFixture
) -> None:
    change(rename(name))
    assert "1 of 4 pictures are" in refused(split)
    options = ["data.train_images=images", "data.train_annotations=instances.json"]
    options += ["data.val_images=images", "data.val_annotations=instances.json"]
    argv = [
        "coco",
        str(split),
        "--config",
        "mask_rcnn_tiny_256px.yaml",
        "--work-dir",
        str(split / "out"),
        "--cfg-options",
    ]
    assert tool.main([*argv, *options]) == 1
    assert "missing pictures" in capsys.readouterr().out
    assert json.loads((split / "out" / "metrics.json").read_text())


@pytest.mark.parametrize("name", [None, "", True, 1.5, ["0.png"], {"name": "0.png"}])
def test_names_that_are_no_text_are_refused(split: Path, change: Change, name: Any) -> None:
    change(rename(name))
    assert "image 10: its file_name is " in refused(split)


def test_a_name_of_a_number_is_read_and_one_of_the_web_is_explained(split: Path, change: Change) -> None:
    (split / "images" / "0.png").rename(split / "images" / "5")
    change(rename(5, "https://host/data/1.png?x=" + quote("a/b", safe="")))  # type: ignore[arg-type]
    assert "differs from the file '1.png' by the parts of a web address and the folder before it" in refused(split)
