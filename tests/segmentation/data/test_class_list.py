"""Class lists are read in every form that says what it means; what they say of label 0 settles it, or is refused."""

import re
from pathlib import Path

import pytest

from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.recipes import shipped_recipes
from convmae.segmentation.config import SegmentationConfig, SegmentationDataOptions
from convmae.segmentation.data.class_list import ClassList, read_class_list, read_classes

CLASSES = ["square", "stripe", "dot"]


def options(root: Path, **values: object) -> SegmentationDataOptions:
    return SegmentationDataOptions(root=str(root), **values)  # type: ignore[arg-type]


def read(root: Path, text: str, reduce_zero_label: bool) -> ClassList:
    (root / "classes.txt").write_text(text, encoding="utf-8")
    return read_class_list(options(root, reduce_zero_label=reduce_zero_label))


def test_classes_leave_label_0_out_and_keep_it_without_reduction(ade_root: Path) -> None:
    assert read_classes(options(ade_root)) == CLASSES
    assert read_classes(options(ade_root, reduce_zero_label=False)) == ["other", *CLASSES]
    (ade_root / "plain.txt").write_text("sky\nroad, route\n")
    assert read_classes(options(ade_root, classes=str(ade_root / "plain.txt"))) == ["sky", "road, route"]
    assert read_classes(options(ade_root, classes="ade20k")) == CLASSES  # the data's own list
    (ade_root / "classes.txt").unlink()
    names = read_classes(options(ade_root, classes="ade20k"))
    assert (len(names), names[0], names[149]) == (150, "wall", "flag")
    table = ["Idx\tRatio\tTrain\tVal\tStuff\tName"] + [f"{i}\t0.{i}\t9\t9\t1\t{n}" for i, n in enumerate(names, 1)]
    (ade_root / "objectInfo150.txt").write_text("\n".join(table))
    assert read_classes(options(ade_root, classes=str(ade_root / "objectInfo150.txt"))) == [n.strip() for n in names]


@pytest.mark.parametrize(
    ("text", "reduce_zero_label", "names"),
    [
        ("0\tother (ignored)\n1\tsky\n2\troad\n", True, ["sky", "road"]),
        ("0 ignore\n1 sky\n2 road\n", True, ["sky", "road"]),
        ("0: Void\n1: sky\n2: road\n", True, ["sky", "road"]),
        ("1\tsky\n2\troad\n", True, ["sky", "road"]),
        ("1. sky\n2. road\n", True, ["sky", "road"]),
        ("0\tbackground\n1\tsky\n", False, ["background", "sky"]),
        ("0,background\n1,sky\n255,void\n", False, ["background", "sky"]),
        ("id,name\n0,sky\n1,road\n", False, ["sky", "road"]),
        ("sky\t1\nroad\t2\n", True, ["sky", "road"]),
        ("sky: 1\nroad: 2\n", True, ["sky", "road"]),
        ("sky 0\nroad 1\n", False, ["sky", "road"]),
        ("Pixel Value, Class\n0, background\n1, cat\n", False, ["background", "cat"]),
        ("type A 1\ntype B 2\n", False, ["type A 1", "type B 2"]),
        ("#1 road\n#2 road\n", False, ["#1 road", "#2 road"]),
        ("[dry] road\nsky\n", False, ["[dry] road", "sky"]),
        ("0 label\n1 cap\n", False, ["label", "cap"]),
        ("lane 1\nlane 2\n", True, ["lane 1", "lane 2"]),
        ("Cessna 172\nBoeing 747\n", True, ["Cessna 172", "Boeing 747"]),
        ("0 road 128 64 128\n1 sky 70 130 180\n", False, ["road 128 64 128", "sky 70 130 180"]),
        ("10\n20\n", True, ["10", "20"]),
        ("sky\n3 wheeler\nroad, 2\n", True, ["sky", "3 wheeler", "road, 2"]),
        ("ignorance\nbliss\n", True, ["ignorance", "bliss"]),
    ],
)
def test_lists_that_say_what_they_mean(ade_root: Path, text: str, reduce_zero_label: bool, names: list[str]) -> None:
    assert read(ade_root, text, reduce_zero_label).names == names


@pytest.mark.parametrize(
    ("text", "reduce_zero_label", "said"),
    [
        ("0\tother (ignored)\n1\tsky\n2\troad\n", False, "says that label 0 is ignored ('other (ignored)')"),
        ("0\tsky\n1\troad\n2\tcar\n", True, "gives label 0 to 'sky', and data.reduce_zero_label=true ignores label 0"),
        ("0\tbackground\n1\tpolyp\n", True, "write '0 background (ignored)'"),
        ("1\tsky\n2\troad\n", False, "begins with label 1, 'sky', and data.reduce_zero_label=false"),
        ("other (ignored)\nsky\nroad\n", True, "begins with 'other (ignored)' and does not say which labels"),
        ("other (ignored)\nsky\nroad\n", False, "such as '0 other (ignored)' and '1 sky'"),
        ("__ignore__\n_background_\ncat\n", False, "begins with '__ignore__'"),
        ("0\tbackground\n255\tpolyp\n", False, "gives label 255 to 'polyp', but 255 is always ignored"),
        ("0\tsky\n1\troad\n2\trest (ignored)\n", False, "has the class 'rest (ignored)', which would be learnt"),
        ("0\tother\n2\tsky\n", True, "has index 2; expected 1"),
        ("5\tsky\n6\troad\n", True, "has index 5; expected 1"),
        ("sky\n0\troad\n1\tcar\n", False, "'sky' has no index, though 2 other lines have one"),
        ("road: 1\nsky: 0\n", False, "class 'sky' has index 0; expected 2"),
        ("sky 2\nroad 0\ncar 1\n", False, "class 'sky' has index 2; expected 0"),
        ("sky 2\nroad 1\n", True, "class 'sky' has index 2; expected 1"),
        ('[\n"sky",\n"road"\n]\n', True, "begins with '[', as JSON does"),
        ("# label:color_rgb:parts:actions\nsky:0,0,0::\nroad:128,0,0::\n", False, "has colours, as in 'sky:0,0,0::'"),
        ("name,r,g,b\nsky,64,128,64\nroad,64,0,128\n", False, "has colours, as in 'sky,64,128,64'"),
        ("0 0 0\tsky\n128 0 0\troad\n", False, "has colours, as in '128 0 0\\troad'"),
        ("# of our project\nsky\nroad\n", True, "begins with '# of our project', which seems to be no class"),
        ("name\nsky\nroad\n", True, "begins with 'name', which seems to be no class"),
        ("2\nsky\nroad\n", True, "begins with '2', which seems to be no class"),
        ("caf\u00e9\ncafe\u0301\n", True, "names the class 'caf\u00e9' more than once"),
        ("sky\n", True, "names 1 classes"),
        ("", True, "names 0 classes"),
        ("sky\nroad\nsky\n", True, "names the class 'sky' more than once"),
    ],
)
def test_lists_that_contradict_the_option_or_themselves(
    ade_root: Path, text: str, reduce_zero_label: bool, said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        read(ade_root, text, reduce_zero_label)


def test_a_missing_list_is_named(ade_root: Path) -> None:
    (ade_root / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"No class list at .*classes\.txt"):
        read_classes(options(ade_root))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # what Windows' editors write
def test_lists_in_unicode_are_read(ade_root: Path, encoding: str) -> None:
    (ade_root / "classes.txt").write_text("0\tother\n1\tHimmel\n2\tStra\u00dfe\n", encoding=encoding)
    assert read_classes(options(ade_root)) == ["Himmel", "Stra\u00dfe"]


def test_lists_in_other_encodings_are_refused(ade_root: Path) -> None:
    (ade_root / "classes.txt").write_text("stra\u00dfe\nweg\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"classes\.txt is no UTF-8 text"):
        read_classes(options(ade_root))
    (ade_root / "classes.txt").write_text("road\nway\n", encoding="utf-16-le")  # no byte of it is wrong in UTF-8
    with pytest.raises(UserError, match="a zero at byte 1"):
        read_classes(options(ade_root))


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith(("upernet_", "demo_seg"))])
def test_label_0_means_the_same_in_all_recipes(name: str) -> None:
    assert load_config(SegmentationConfig, name).data.reduce_zero_label is True
