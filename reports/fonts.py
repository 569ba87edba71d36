"""Letters of any language on pictures: each part of a text in a font that has its characters."""

from __future__ import annotations

import contextlib
import functools
import string
import unicodedata
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple, cast

import matplotlib
from matplotlib.font_manager import FontEntry, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

from convmae.engine.log import log
from convmae.engine.text import shorten

PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")  # Noto's fonts: setup.cfg requires them, all works without
PLAIN = "Pillow"  # stands for its own font, which has little more than ASCII
DEJAVU = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
_ENDINGS = (".ttf", ".ttc", ".otf")
_PLAIN = frozenset(map(ord, string.ascii_letters + string.digits + string.punctuation + " …"))
# Of the system's fonts, those whose file's name says so come after all others.
_LAST = ("bold", "italic", "oblique", "thin", "light", "black", "serif", "mono", "color", "unifont")
_told: list[str] = []  # characters without a font, once the log has spoken of them


class Run(NamedTuple):
    """A part of a text and the font that has its characters."""

    text: str
    font: str


class Lettering:
    """Text at one height, in pixels, on one line."""

    def __init__(self, size: int) -> None:
        self.size = size
        # What a line of plain text takes, above what its letters stand on and below.
        self.ascent, self.descent = _open(PLAIN, size).getmetrics()

    def length(self, text: str) -> float:
        """Returns a text's width."""
        return sum(_open(run.font, self.size).getlength(run.text) for run in runs(text))

    def extent(self, text: str) -> tuple[float, float]:
        """Returns how far a text and the letters Ag reach above the line that they stand on (negative), and below it."""
        boxes = [_open(run.font, self.size).getbbox(run.text, anchor="ls") for run in (*runs(text), *runs("Ag"))]
        return min(box[1] for box in boxes), max(box[3] for box in boxes)

    def write(self, draw: ImageDraw.ImageDraw, left: float, line: float, text: str, fill: tuple[int, int, int]) -> None:
        """Draws a text that begins at ``left`` and stands on ``line``, the y where an A ends."""
        for run in runs(text):
            font = _open(run.font, self.size)
            draw.text((left, line), run.text, font=font, fill=fill, anchor="ls")
            left += font.getlength(run.text)

    def shorten(self, text: str, width: float) -> str:
        """Returns a text that is at most so wide, dots in the place of its middle where there is too much of it."""
        return shorten(text, width, self.length)

    def wrap(self, text: str, width: float) -> list[str]:
        """Breaks a text into lines of at most ``width``: at spaces, and within a word that is wider."""
        lines: list[str] = []
        for word in text.split():
            if lines and self.length(f"{lines[-1]} {word}") <= width:
                lines[-1] += f" {word}"
                continue
            if self.length(word) <= width:
                lines.append(word)
                continue
            lines.append("")
            for character in word:
                if lines[-1] and self.length(lines[-1] + character) > width:
                    lines.append("")
                lines[-1] += character
        return lines


@functools.lru_cache(4096)
def runs(text: str) -> tuple[Run, ...]:
    """Returns a text in as few parts as its characters need fonts.

    Logs once that there are characters without a font: squares stand for them.
    """
    if _PLAIN.issuperset(map(ord, text)):
        return (Run(text, PLAIN),)
    fonts = list(dict.fromkeys(font for font in map(font_of, text) if font is not None))
    missing = [character for character in text if font_of(character) is None and not _unprinted(character)]
    if missing and not _told:
        _told.extend(missing)
        log.warning(
            f"No font here has {''.join(dict.fromkeys(missing))[:8]!r}; squares stand for such characters on pictures. Install "
            "fonts that have them, such as Debian's fonts-noto-core and fonts-noto-cjk."
        )
    whole = next((font for font in fonts if all(_has(font, character) for character in text)), None)
    if whole is not None:
        return (Run(text, whole),)
    parts: list[Run] = []
    for character in text:
        if parts and _has(parts[-1].font, character):
            parts[-1] = Run(parts[-1].text + character, parts[-1].font)
            continue
        font = font_of(character) or DEJAVU
        if parts and parts[-1].font == font:
            parts[-1] = Run(parts[-1].text + character, font)
        else:
            parts.append(Run(character, font))
    return tuple(parts)


def font_of(character: str) -> str | None:
    """Returns the first font with a character: Pillow's own, DejaVu Sans, the packages', the system's; None for none."""
    code = ord(character)
    return PLAIN if code in _PLAIN else _of_packages().get(code) or _of_system().get(code)


def families(texts: Iterable[str]) -> list[str]:
    """Returns the names by which matplotlib knows the fonts that texts need, the usual one first."""
    files = dict.fromkeys(map(font_of, dict.fromkeys("".join(texts))))
    return ["DejaVu Sans", *(_family(font) for font in files if font not in (PLAIN, DEJAVU, None))]


@functools.cache
def _family(font: str) -> str:
    name = FT2Font(font).family_name
    # Under the weight that is asked for: of a font of many weights matplotlib knows one alone.
    fontManager.ttflist.append(
        FontEntry(fname=font, name=name, style="normal", variant="normal", weight=400, size="scalable")
    )
    return name


@functools.cache
def _of_packages() -> dict[int, str]:
    return _first_with([DEJAVU, *_in_order(_packaged())])


@functools.cache
def _of_system() -> dict[int, str]:
    found = (font for font in findSystemFonts() if font.lower().endswith(_ENDINGS) and "lastresort" not in font.lower())
    return _first_with(_in_order(found))


def _in_order(fonts: Iterable[str]) -> list[str]:
    return sorted(fonts, key=lambda font: (any(word in Path(font).name.lower() for word in _LAST), font))


def _packaged() -> Iterator[str]:
    for package in PACKAGES:
        with contextlib.suppress(ModuleNotFoundError):
            yield from (str(file) for file in resources.files(package).iterdir() if file.name.endswith(_ENDINGS))


def _first_with(fonts: Iterable[str]) -> dict[int, str]:
    """Returns which of the fonts is the first to have each character."""
    table: dict[int, str] = {}
    for font in fonts:
        for code in _characters(font):
            table.setdefault(code, font)
    return table


@functools.lru_cache(64)
def _characters(font: str) -> frozenset[int]:
    """Returns the characters of a font, none where Pillow can't draw it at any size."""
    if font == PLAIN:
        return _PLAIN
    try:
        face = FT2Font(font)
    except (OSError, RuntimeError):  # no font, or a broken one
        return frozenset()
    if not face.scalable:
        return frozenset()
    found = frozenset(code for code, glyph in face.get_charmap().items() if glyph)
    # A font of symbols may have figures, for keys, and no letters.
    return found if ord("a") in found else found - _PLAIN | {ord(" ")}


def _has(font: str, character: str) -> bool:
    return ord(character) in _characters(font) or _unprinted(character)


def _unprinted(character: str) -> bool:
    """Whether a character only says how others are joined or look: it needs no glyph."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


@functools.lru_cache(256)
def _open(font: str, size: int) -> ImageFont.FreeTypeFont:
    if font == PLAIN:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
    opened = ImageFont.truetype(font, size)
    with contextlib.suppress(OSError):  # of a font of one weight alone
        # Noto's for Chinese begins with the thinnest.
        weights = [400 if axis["name"] == b"Weight" else axis["default"] or 0 for axis in opened.get_variation_axes()]
        opened.set_variation_by_axes([*map(float, weights)])
    return opened
