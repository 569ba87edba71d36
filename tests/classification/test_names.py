"""Class folders of any name, and the lists of readable ones that people save."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from names import NASTY
from PIL import Image

from convmae.classification.config import FinetuningConfig, FolderOptions
from convmae.classification.data.dataset import read_split, read_splits
from convmae.classification.evaluation.accuracy import Prediction, score
from convmae.classification.evaluation.report import start_page, write_report
from convmae.engine.errors import UserError


def write_folders(root: Path, names: list[str]) -> FolderOptions:
    for split in ("train", "val"):
        for name in names:
            folder = root / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "0.png")
    return FolderOptions(root=str(root))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_readable_names_are_read_from_any_editors_list(tmp_path: Path, encoding: str, end: str) -> None:
    options = write_folders(tmp_path, ["n01", "n02", "n03"])
    lines = ["folder\tname", "n01\tHündchen", " n02 \t行人\tde, en", "", "n09\tnot here", "n03\t", "n04 spaces"]
    (tmp_path / "classes.txt").write_bytes(end.join(lines).encode(encoding))
    assert read_split(options, "val").classes == ["Hündchen", "行人\tde, en", "n03"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le"])
def test_a_list_in_another_encoding_is_refused_by_name(tmp_path: Path, encoding: str) -> None:
    options = write_folders(tmp_path, ["cat", "dog"])
    (tmp_path / "classes.txt").write_bytes("dog\tHündchen\n".encode(encoding))
    with pytest.raises(UserError, match=r"classes\.txt is no UTF-8 text .*save it as UTF-8"):
        read_split(options, "train")


def test_a_list_in_unicodes_other_form_names_the_folders_too(tmp_path: Path) -> None:
    options = write_folders(tmp_path, [unicodedata.normalize("NFD", "dög"), "cat"])
    (tmp_path / "classes.txt").write_text(unicodedata.normalize("NFC", "dög\tDogge\n"), encoding="utf-8")
    assert read_split(options, "train").classes == ["cat", "Dogge"]


@pytest.mark.parametrize(
    ("text", "classes", "said"),
    [
        ("cat Katze\ndog Hund\n", ["cat", "dog"], "names none of the class folders, such as 'cat'"),
        (
            "cat\tKatze\nDog\tHund\n",
            ["Katze", "dog"],
            "no line of the class folder 'dog', but one of 'Dog', which is no",
        ),
        ("cat\tKatze\n", ["Katze", "dog"], ""),
        ("cat\tKatze\ndog\tHund\nfox\tFuchs\n", ["Katze", "Hund"], ""),
    ],
)
def test_a_list_and_folders_that_do_not_fit_are_remarked(
    tmp_path: Path, text: str, classes: list[str], said: str
) -> None:
    options = write_folders(tmp_path, ["cat", "dog"])
    (tmp_path / "classes.txt").write_text(text)
    found = read_split(options, "train")
    assert found.classes == classes
    remarks = [
        " ".join(one.first) for one in found.remarks if one.kind == "class folders that classes.txt does not name"
    ]
    assert len(remarks) == bool(said)
    assert said in "".join(remarks)


def test_folders_of_any_name_are_read_and_differences_told(tmp_path: Path) -> None:
    names = sorted({os.fsdecode(os.fsencode(name)) for name in map(_as_folder, NASTY) if name})
    options = write_folders(tmp_path, names)
    assert read_split(options, "train").folders == names
    (tmp_path / "val" / os.fsdecode(b"h\xfcnd") / "0.png").unlink()
    (tmp_path / "val" / os.fsdecode(b"h\xfcnd")).rmdir()
    with pytest.raises(UserError, match=r"has the class folder 'h\\udcfcnd'"):
        read_splits(options)


def test_nasty_names_lose_no_number(tmp_path: Path) -> None:
    split = read_split(write_folders(tmp_path / "data", ["a", "b"]), "val")
    rows = [
        Prediction(number % 2, label, [(label + 1) % len(NASTY)], 0.5) for number, label in enumerate(range(len(NASTY)))
    ]
    numbers, details = score(rows, NASTY)
    page = start_page("Names", "of all kinds", numbers, details)
    metrics_path, page_path = write_report(
        page, numbers, details, FinetuningConfig(), [split], tmp_path / "run", 1.0, Path("model.pth")
    )
    classes = json.loads(metrics_path.read_text(encoding="ascii"))["classes"]
    assert len(classes) == len(NASTY)
    assert set(NASTY) <= classes.keys()
    text = page_path.read_text(encoding="utf-8")
    for name in ("한국어", "from 5$ to 10_$", "&lt;b&gt;car&lt;/b&gt;", "h\\xfcnd"):
        assert name in text


def _as_folder(name: str) -> str:
    """What of a name a folder can be called: no zero, no more than 255 bytes, half a character as the byte it may be."""
    return name.replace("\x00", "").replace("/", "").replace("\ud800", "\udcff")[:60].strip(".")
