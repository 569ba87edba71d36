"""Names as they are shown: on one line, without what steers a terminal or a page, never empty, no wider than there is room."""

import os

import pytest
from names import NASTY

from convmae.engine.text import BLANK, distinct, shorten, shown, visible


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("행인 \\frac $x$ <b>", "행인 \\frac $x$ <b>"),
        (" two\nlines\tand\r\na tab ", "two lines and a tab"),
        ("a\x07b\x1b[31m", "a\\x07b\\x1b[31m"),
        ("\u202etac", "\\u202etac"),
        ("\ud800", "\\ud800"),
        (os.fsdecode(b"h\xfcnd"), "h\\xfcnd"),
        ("\uffff", "\\uffff"),
        ("क्‍ष", "क्‍ष"),  # the joiner says how the letters are written
        ("", BLANK),
        (" \u00a0\u200b\ufeff", BLANK),
    ],
)
def test_a_name_is_shown_on_one_line_whatever_it_holds(name: str, expected: str) -> None:
    assert shown(name) == expected


@pytest.mark.parametrize("name", NASTY)
def test_what_is_shown_can_be_written_and_is_as_narrow_as_asked(name: str) -> None:
    line = shown(name, 20)
    assert line.encode("utf-8").strip()
    assert 0 < len(line) <= 20
    assert line.isprintable() or "\u200b" in line


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert shown("a very long name of a class, 0.93", 15) == "a very…s, 0.93"
    assert shown("a" * 15, 15) == "a" * 15
    assert shown("行" * 20, 9) == "行行…行行"
    assert shorten("abc", 0, len) == "…"


def test_a_text_keeps_its_lines() -> None:
    assert visible("a: 1\n\tb: \x002\n") == "a: 1\n\tb: \\x002\n"


def test_names_that_occur_again_are_numbered() -> None:
    assert distinct(["crane", "cat", "crane", "crane"]) == ["crane", "cat", "crane (2)", "crane (3)"]
    assert distinct(["a", "a", "a (2)", "a"]) == ["a", "a (3)", "a (2)", "a (4)"]
    assert len(set(distinct(NASTY))) == len(NASTY)
