"""Letters are drawn, not squares, wherever a font here has them; the rest is said once."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import findfont
from names import NASTY
from PIL import Image, ImageDraw, ImageFont

from convmae.engine.text import shown
from convmae.reports import fonts
from convmae.reports.fonts import DEJAVU, PLAIN, Lettering, families, font_of, runs

NOWHERE = "\U000f1234"  # a private character that no font of text has
SCRIPTS = {
    "Latin": "é", "Greek": "ω", "Cyrillic": "ж", "Hebrew": "ש", "Arabic": "س", "Chinese": "行", "Japanese": "ね",
    "Korean": "한", "Hindi": "ह", "Thai": "ร", "Tamil": "த", "Amharic": "አ", "Georgian": "ქ", "emoji": "🚗",
}  # fmt: skip


def ink(text: str, size: int = 32) -> np.ndarray:
    """White letters on black, grey [H, W]; they begin at ``size`` and stand on twice that."""
    image = Image.new("RGB", (3 * size * len(text), 3 * size))
    Lettering(size).write(ImageDraw.Draw(image), size, 2 * size, text, (255, 255, 255))
    return np.asarray(image)[..., 0]


@pytest.fixture
def without_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has the fonts of matplotlib and Pillow alone."""
    caches = (fonts._of_packages, fonts._of_system, fonts.runs)
    monkeypatch.setattr(fonts, "PACKAGES", ("no_such_package",))
    monkeypatch.setattr(fonts, "findSystemFonts", list)
    monkeypatch.setattr(fonts, "_told", [])
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_letter_is_drawn_and_no_square(script: str) -> None:
    letter = SCRIPTS[script]
    if font_of(letter) is None:
        pytest.skip(f"no font for {script} here")
    drawn = ink(letter)
    assert drawn.max() > 200
    font = ImageFont.truetype(runs(letter)[0].font, 32)
    square = Image.new("L", (96, 96))
    ImageDraw.Draw(square).text((32, 64), NOWHERE, font=font, fill=255, anchor="ls")
    assert not np.array_equal(drawn, np.asarray(square))


def test_fonts_come_with_what_the_project_requires() -> None:
    pytest.importorskip("manimgx_fonts")
    pytest.importorskip("manimgx_fonts_cjk")
    assert all(font_of(letter) for letter in SCRIPTS.values())


def test_plain_text_is_in_pillows_font() -> None:
    image = Image.new("L", (200, 50))
    ImageDraw.Draw(image).text((16, 32), "cat 0.93", font=ImageFont.load_default(16), fill=255, anchor="ls")
    drawn = ink("cat 0.93", 16)[:50, :200]
    assert np.array_equal(drawn, np.asarray(image)[: len(drawn)])


def test_a_text_is_in_one_font_if_one_has_it_all() -> None:
    assert [run.font for run in runs("Hündchen 0.93")] == [DEJAVU]
    assert len(runs("سيارة 0.93")) == 1
    if font_of("行"):
        assert len(runs("行人 0.93 (crowd)")) == 1


@pytest.mark.parametrize("name", NASTY)
def test_parts_make_up_the_text_and_its_width(name: str) -> None:
    text = shown(name)
    assert "".join(run.text for run in runs(text)) == text
    lettering = Lettering(20)
    assert lettering.length(text) > 0
    above, below = lettering.extent(text)
    rows = np.flatnonzero(ink(text, 20).any(axis=1)) - 40
    assert above - 1 <= rows.min() <= rows.max() <= below + 1


def test_a_bold_or_slanted_font_is_not_taken_before_a_plain_one() -> None:
    files = ["a/Noto-Bold.ttf", "b/Noto.ttf", "c/NotoSerif.ttf", "Unifont.otf"]
    assert fonts._in_order(files)[0] == "b/Noto.ttf"


@pytest.mark.usefixtures("without_fonts")
def test_what_no_font_has_is_said_once_and_drawn_as_squares(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "log", logging.getLogger("fonts"))  # a run in this process may have redirected its own
    with caplog.at_level(logging.WARNING, logger="fonts"):
        assert ink("行人").max() > 200
        assert [run.font for run in runs("cat 한국어")] == [PLAIN, DEJAVU]
        assert ink("é").max() > 200
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No font here has '行人'" in caplog.text
    assert "fonts-noto-cjk" in caplog.text


def test_a_broken_font_of_the_system_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    assert fonts._first_with([str(tmp_path / "broken.ttf"), DEJAVU]).keys() >= {ord("ж")}


def test_text_that_is_too_wide_is_shortened_or_wrapped() -> None:
    lettering = Lettering(16)
    for text in ("very long name " * 9 + "0.93", "行" * 60):
        short = lettering.shorten(text, 200)
        assert lettering.length(short) <= 200 < lettering.length(text)
        assert (short[0], short[-1]) == (text[0], text[-1])
    for text in ("one two three " * 9, "x" * 100, "行" * 60):
        lines = lettering.wrap(text, 120)
        assert max(map(lettering.length, lines)) <= 120
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert lettering.wrap("ab", 1) == ["a", "b"]


def test_matplotlib_finds_the_fonts_that_names_need() -> None:
    assert families(["cat", "$x$", "Ωж"]) == ["DejaVu Sans"]
    if font_of("行"):
        family = families(["行人"])[1]
        assert findfont(family, fallback_to_default=False) == font_of("行")
