"""Names that are not there are told from the files that are by what a reader can mend, and by nothing else."""

import os
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest

from convmae.engine.pictures.file_names import (
    DIFFERENCES,
    LABEL_MARK,
    find_twins,
    list_files,
    show,
    tell_each,
    tell_twins,
)

COMPOSED = unicodedata.normalize("NFC", "résumé 1.jpg")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
PAIRS = [  # what is told, the name, the file
    ("backslashes", "images\\a\\1.jpg", "images/a/1.jpg"),
    ("backslashes", "images/1.jpg", "images\\1.jpg"),
    ("percent-encoding", quote(COMPOSED), COMPOSED),
    ("percent-encoding", "a%3A1.jpg", "a:1.jpg"),
    ("percent-encoding", "a b.jpg", "a%20b.jpg"),
    ("HTML's escapes", "a &amp; b.jpg", "a & b.jpg"),
    ("Unicode form", COMPOSED, DECOMPOSED),
    ("Unicode form", DECOMPOSED, COMPOSED),
    ("look alike", "Shot 3.14\u202fPM.png", "Shot 3.14 PM.png"),
    ("was read in", "résumé.jpg".encode().decode("latin-1"), "résumé.jpg"),
    ("read in, which", "résumé.jpg".encode().decode("cp437"), "résumé.jpg"),
    ("was written in", "résumé.jpg", os.fsdecode("résumé.jpg".encode("latin-1"))),
    ("upper and lower case", "IMG_1.JPG", "img_1.jpg"),
    ("the ending", "1.jpg", "1.png"),
    ("the ending", "1", "1.jpeg"),
    ("blanks at an end", " 1.jpg\n", "1.jpg"),
    ("in place of blanks", "a_b.jpg", "a b.jpg"),
    ("web address", "https://host:80/1.jpg?size=big", "1.jpg"),
    ("web address", "s3://bucket/deep/1.jpg", "deep/1.jpg"),
    ("web address", "/data/local-files/?d=deep/1.jpg", "deep/1.jpg"),
    ("Label Studio", "4f2a91bc-1.jpg", "1.jpg"),
    ("Roboflow", "street-1_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "street-1.jpg"),
    ("COCO's names of 2014", "COCO_val2014_000000000042.jpg", "000000000042.jpg"),
    ("zeros", "42.jpg", "000000000042.jpg"),
    ("the folder", "images/1.jpg", "1.jpg"),
    ("the folder", "1.jpg", "deep/below/1.jpg"),
    ("the folder", "/home/one/data/1.jpg", "deep/1.jpg"),
]


@pytest.mark.parametrize(("said", "name", "file"), PAIRS)
def test_a_difference_is_told_and_no_other(said: str, name: str, file: str) -> None:
    twin = find_twins([name], ["other.jpg", file, "another.png"])[name]
    assert twin.file == file
    (difference,) = twin.differences
    assert said in difference.name
    assert difference.fold(name) == difference.fold(file)


def test_several_differences_are_all_told() -> None:
    name = quote("images\\" + COMPOSED.upper())
    twin = find_twins([name], [DECOMPOSED])[name]
    told = str(twin)
    for words in (
        "percent-encoding",
        "backslashes",
        "the Unicode form",
        "upper and lower case",
        "the folder before it",
    ):
        assert words in told
    assert len(twin.differences) == 5
    assert COMPOSED not in told  # what looks like the other is written so that the difference shows
    assert "re\\u0301sume\\u0301 1.jpg" in told


def test_other_names_are_told_from_no_file() -> None:
    files = ["1.jpg", "a/2.jpg", "b/2.jpg", "b/deep/3.jpg", "c/deep/3.jpg"]
    assert find_twins(["11.jpg", "gone.png", "", "/", "%", "c/2.jpg", "d/deep/3.jpg"], files) == {}
    assert find_twins(["2.jpg"], files)["2.jpg"].file in ("a/2.jpg", "b/2.jpg")


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("1", "1_mask"),
        ("aachen/1_leftImg8bit", "aachen/1_gtFine_labelIds"),
        ("0001TP_6", "0001TP_6_L"),
        ("855_sat", "855_mask"),
        ("image_3", "label_3"),
    ],
)
def test_what_marks_label_maps_is_told(picture: str, label: str) -> None:
    twin = find_twins([picture], [label, "seal"], (*DIFFERENCES, LABEL_MARK))[picture]
    assert (twin.file, twin.differences) == (label, (LABEL_MARK,))
    assert find_twins([picture, "sea"], [label]) == {}


def test_names_are_counted_by_what_they_differ_in() -> None:
    files = [f"{n}.jpg" for n in range(10)]
    twins = find_twins([f"{n}.JPG" for n in range(3)] + [f"x\\{n}.jpg" for n in range(3, 9)] + ["gone"], files)
    each = tell_each(twins)
    assert len(each) == 9
    assert each["1.JPG"].startswith("3 of them so: '1.JPG' differs from the file '1.jpg' by upper and lower case")
    assert each["x\\4.jpg"].startswith("6 of them so: 'x\\4.jpg'")
    assert tell_twins(twins).startswith("6 of them so: 'x\\3.jpg'")
    assert "3 of them so: '0.JPG'" in tell_twins(twins)


def test_files_below_a_folder_are_listed_once(tmp_path: Path) -> None:
    for name in ("1.jpg", "deep/below/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "back").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "deep")
    found = list_files(tmp_path)
    assert sorted(Path(name).name for name in found) == ["1.jpg", "2.jpg"]


def test_what_cant_be_seen_is_shown_as_numbers() -> None:
    assert show("é ü 三.jpg") == "'é ü 三.jpg'"
    assert show("a\u202fb\n\udce9\u00a0.jpg") == "'a\\u202fb\\n\\udce9\\xa0.jpg'"
    assert show(DECOMPOSED).isascii()
