"""The check of data finds all that is wrong at once, counts what is there, and shows it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convmae.tools import check_data


@pytest.fixture
def root(ade_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ade_root.parent)
    return ade_root


def check(root: Path, *options: str) -> int:
    return check_data.main(["seg", str(root), "--overwrite", *options])


def numbers(split: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("work_dirs/check_seg/metrics.json").read_text())[split]
    return found


def kinds(split: str) -> dict[str, list[str]]:
    """The messages of each kind in the file that lists all."""
    found: dict[str, list[str]] = {}
    for fault in numbers(split)["faults"]:
        found.setdefault(fault["kind"], []).append(fault["message"])
    return found


def test_data_in_order_pass_and_are_counted(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert check(root) == 0
    said = capsys.readouterr().out
    assert "nothing would stop training" in said
    assert "6 pictures with label maps (all decoded), 48 x 40 pixels, 3 of 3 classes occur" in said
    assert "6 pictures looked at and in order: 6 RGB" in said
    assert kinds("training") == kinds("validation") == {}
    labels = [np.array(Image.open(path)) for path in (root / "annotations/training").iterdir()]
    assert numbers("training")["classes"] == {
        name: {
            "pixels": sum(int((label == value).sum()) for label in labels),
            "pictures": sum(bool((label == value).any()) for label in labels),
        }
        for value, name in enumerate(("square", "stripe", "dot"), 1)
    }
    assert numbers("training")["ignored_pixels"] == sum(int((label == 0).sum()) for label in labels)
    page = Path("work_dirs/check_seg/report/index.html").read_text()
    for text in (
        "Samples, training",
        "Samples, validation",
        "None was found",
        "modes of label maps",
        "6 grey",
        "stripe",
    ):
        assert text in page


def test_shared_pictures_and_what_is_passed_over_are_found(root: Path) -> None:
    images = root / "images"
    shutil.copy(images / "training/picture_4.jpg", images / "validation/picture_1.jpg")
    shutil.copy(images / "training/picture_0.jpg", images / "training/picture_2.jpg")
    labels = root / "annotations/training"
    shutil.copy(labels / "picture_0.png", labels / "picture_2.png")
    Image.new("RGB", (48, 40)).save(images / "training/picture_3.jp2")  # beside the JPEG of that name
    (images / "training/c.heic").touch()
    assert check(root) == 0
    assert [
        words.partition(" holds")[0] for words in kinds("validation")["pictures that are training pictures, too"]
    ] == [str(images / "validation/picture_1.jpg")]
    found = kinds("training")
    assert len(found["pictures that are there more than once"]) == 1
    assert "1 .heic" in found["folders with files that may be pictures"][0]
    assert "picture_3.jp2" in found["folders with files beside a picture of the same name"][0]


def test_all_faults_are_found_at_once(root: Path, capsys: pytest.CaptureFixture) -> None:
    images, labels = (root / kind / "training" for kind in ("images", "annotations"))
    (labels / "picture_0.png").unlink()
    Image.new("L", (48, 40), 1).save(labels / "alone.png")
    Image.new("RGB", (48, 40)).save(labels / "picture_1.png")
    Image.new("I;16", (48, 40)).save(labels / "picture_2.png")
    Image.new("L", (47, 40), 1).save(labels / "picture_3.png")
    Image.new("L", (48, 40), 9).save(labels / "picture_4.png")
    for name in ("cut", "void"):
        Image.new("RGB", (48, 40)).save(images / f"{name}.jpg")
        Image.new("L", (48, 40)).save(labels / f"{name}.png")
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:200])
    exif = Image.Exif()
    exif[0x0112] = 3
    val = root / "images/validation/picture_1.jpg"
    Image.open(val).save(val, exif=exif)
    for path in (root / "annotations/validation").iterdir():
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 3, 0, label).astype(np.uint8)).save(path)
    with (root / "classes.txt").open("a") as file:
        file.write("4\tghost\n")
    assert check(root) == 1
    assert {kind: len(messages) for kind, messages in kinds("training").items()} == {
        "pictures without a label map": 1,
        "label maps without a picture": 1,
        "colour label maps": 1,
        "16- or 32-bit label maps": 1,
        "label maps of another size than their picture": 1,
        "labels beyond the class list": 1,
        "unreadable pictures": 1,
        "label maps that are all ignored": 1,
        "splits whose labels are numbered in another way": 1,
        "lists with classes that no label map holds": 1,
    }
    assert (
        "write 0, 1, 2, 3 and 9 as 0, 1, 2, 3 and 4"
        in kinds("training")["splits whose labels are numbered in another way"][0]
    )
    assert set(kinds("validation")) == {"pictures turned by EXIF data", "lists with classes that no label map holds"}
    (message,) = kinds("validation")["lists with classes that no label map holds"]
    assert "('dot', 'ghost'): not tested" in message
    said = capsys.readouterr().out
    assert "8 faults would stop training" in said
    page = Path("work_dirs/check_seg/report/index.html").read_text()
    for text in ("Pictures with remarks, training", "void.png: every pixel is ignored", "alone.png", "stops training"):
        assert text in page


def test_one_unusable_split_does_not_keep_the_other_from_being_checked(root: Path) -> None:
    Image.new("L", (48, 40), 9).save(root / "annotations/training/picture_4.png")
    assert check(root, "--cfg-options", "data.val_images=nowhere") == 1
    assert list(kinds("validation")) == ["folders that can't be used"]
    assert list(kinds("training")) == ["labels beyond the class list"]


def test_a_sample_of_pictures_can_be_opened(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "images/training/picture_2.jpg").write_bytes(b"no picture")
    assert check(root, "--pictures", "2") == 0  # the first and the last
    assert "(2 decoded)" in capsys.readouterr().out
    assert check(root) == 1


def test_a_sample_does_not_tell_which_classes_are_nowhere(root: Path) -> None:
    with (root / "classes.txt").open("a") as file:
        file.write("4\tghost\n")
    assert check(root, "--pictures", "2") == 0
    assert kinds("training") == kinds("validation") == {}
    assert check(root, "--pictures", "6") == 0
    assert list(kinds("training")) == list(kinds("validation")) == ["lists with classes that no label map holds"]


def test_a_list_among_the_data_is_theirs_unless_another_is_given(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert check(root, "--cfg-options", "data.classes=ade20k") == 0
    assert "3 of 3 classes" in capsys.readouterr().out
    listed = root / "classes.txt"
    listed.rename(root / "names.txt")
    assert check(root) == 0
    assert "3 of 150 classes" in capsys.readouterr().out
    (root / "names.txt").rename(listed)
    assert check(root, "--cfg-options", "data.reduce_zero_label=false") == 0
    assert list(numbers("training")["classes"]) == ["other", "square", "stripe", "dot"]
    assert check(root, "--cfg-options", "data.classes=gone.txt") == 2
    assert "No class list at gone.txt" in capsys.readouterr().err


def test_real_data(data_dir: Path, tmp_path: Path) -> None:
    root = data_dir / "ade20k_mini"
    assert check_data.main(["seg", str(root), "--work-dir", str(tmp_path / "check")]) == 0
    found = json.loads((tmp_path / "check/metrics.json").read_text())
    assert len(found["training"]["classes"]) == 150
    assert sum(one["pixels"] > 0 for one in found["training"]["classes"].values()) == 67
