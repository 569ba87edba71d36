"""Class lists are compared by name and order, and what differs is named."""

import unicodedata

import pytest

from convmae.engine.class_lists import check_class_lists, check_classes, class_difference, known_classes
from convmae.engine.errors import UserError


@pytest.mark.parametrize(
    ("known", "expected", "words"),
    [
        (["cat", "dog", "fox"], ["ant", "cat", "dog"], ["with 'cat' where data has 'ant'", "'fox'; only here: 'ant'"]),
        (["cat", "dog"], ["dog", "cat"], ["with 'cat' where data has 'dog'", "the same names in another order"]),
        (["cat", "dog"], ["cat", "dog", "fox"], ["without 'fox', which data has", "2 and 3 classes"]),
        (["cat", "dog", "fox"], ["cat", "dog"], ["with 'fox', which data has not", "3 and 2 classes"]),
        (["Cat", "dog"], ["cat", "dog"], ["with 'Cat' where data has 'cat'"]),
        (["a"], list("bcdefg"), ["only here: 'b', 'c', 'd' and 3 more"]),
    ],
)
def test_what_differs_is_named(known: list[str], expected: list[str], words: list[str]) -> None:
    said = class_difference(known, expected, "data")
    assert all(part in said for part in words), said
    with pytest.raises(UserError, match=r"weights\.pth was trained on classes"):
        check_classes("weights.pth", known, expected, "data")


def test_one_name_in_two_unicode_forms_is_one_name() -> None:
    composed, apart = (unicodedata.normalize(form, "Bär") for form in ("NFC", "NFD"))
    assert composed != apart
    assert class_difference([apart, "dog"], [composed, "dog"], "data") == ""


def test_weights_that_name_no_classes_pass() -> None:
    check_classes("weights.pth", [], ["cat"], "data")


@pytest.mark.parametrize(
    ("meta", "names"),
    [
        ({"dataset_meta": {"classes": ["bright cat", "dog"], "folders": ["n01", "n02"]}}, ["n01", "n02"]),
        ({"dataset_meta": {"classes": ("cat", "dog"), "palette": [[0, 0, 0]]}}, ["cat", "dog"]),
        ({"CLASSES": ("cat", "dog"), "PALETTE": None}, ["cat", "dog"]),
        ({"dataset_meta": None}, []),
        ({}, []),
    ],
)
def test_the_list_is_found_as_each_framework_writes_it(meta: dict, names: list[str]) -> None:
    assert known_classes(meta) == names


@pytest.mark.parametrize("names", [["a", None], [None], ["a", 1.5]])
def test_a_list_of_what_is_no_name_is_refused(names: list) -> None:
    with pytest.raises(UserError, match=r"its class list \(classes\) holds a (NoneType|float); expected names"):
        check_class_lists({"dataset_meta": {"classes": names}}, "weights.pth")
    check_class_lists({"dataset_meta": {"classes": ["a", 1]}}, "weights.pth")
