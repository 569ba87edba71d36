"""Panels: outlines that are the masks', counts that are the shapes', and a choice that holds every class."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from convmae.reports.gallery import Panel, Picture, Shape, encode, ends_and_classes, fine, outline


def disc(radius: float, size: int = 120) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] + 0.5
    return np.asarray((rows - 50.3) ** 2 + (columns - 60.8) ** 2 < radius**2)


def filled(path: str, size: int) -> np.ndarray:
    """The area of an outline by Pillow's polygons at ten times the size, holes as differences."""
    scale, area = 10, np.zeros((size * 10, size * 10), bool)
    for part in re.findall(r"M([^Mz]*)z", path):
        numbers = [float(number) * scale for number in part.split()]
        sheet = Image.new("1", (size * scale, size * scale))
        ImageDraw.Draw(sheet).polygon(list(zip(numbers[::2], numbers[1::2], strict=True)), fill=1)
        area ^= np.asarray(sheet)
    return area


@pytest.mark.parametrize(("radius", "least"), [(40, 0.97), (12, 0.93), (5, 0.85)])
def test_an_outline_encloses_its_mask(radius: float, least: float) -> None:
    mask = disc(radius)
    area, whole = filled(outline(mask), 120), mask.repeat(10, axis=0).repeat(10, axis=1)
    assert (area & whole).sum() / (area | whole).sum() > least


def test_a_mask_may_have_holes_parts_and_nothing() -> None:
    mask = disc(40) & ~disc(20)
    mask[100:110, 5:25] = True
    area, whole = filled(outline(mask), 120), mask.repeat(10, axis=0).repeat(10, axis=1)
    assert (area & whole).sum() / (area | whole).sum() > 0.95
    assert outline(np.zeros((8, 8), bool)) == ""
    assert outline(np.ones((8, 8), bool)).count("M") == 1


def picture() -> Picture:
    image = Image.new("RGB", (200, 100))
    box, red = (10.0, 10.0, 50.0, 50.0), (255, 0, 0)
    truth = [
        Shape(box, red, "cat", 0, score=0.8),
        Shape(box, red, "dog", 1, score=0.3),
        Shape(box, red, "dog", 1),
        Shape(box, red, "dog (crowd)", 1, counted=False),
    ]
    found = [
        Shape(box, red, "cat 0.80", 0, score=0.8),
        Shape(box, red, "cat 0.70", 0, score=0.7, right=False),
        Shape(box, red, "dog 0.60", 1, score=0.6, right=False, counted=False),
        Shape(box, red, "dog 0.30", 1, score=0.3),
    ]
    panels = [Panel(image, "ground truth", truth, truth=True, run=0), Panel(image, "prediction", found, run=0)]
    return Picture(panels, "what it is", Path("/data/a b/<1>.jpg"), classes=(0, 1))


@pytest.mark.parametrize(
    ("level", "said", "hidden", "lacking"),
    [
        (50, "1 right, 2 missed, 1 wrong", 1, 2 + 2),
        (30, "2 right, 1 missed, 1 wrong", 0, 1 + 2),
        (81, "0 right, 3 missed, 0 wrong", 4, 3 + 2),
    ],
)
def test_counts_and_what_is_hidden_follow_the_level(level: int, said: str, hidden: int, lacking: int) -> None:
    encoded = encode(picture(), "p", level, Path("/runs/report"))
    assert [one["text"] for one in encoded["tallies"]] == [said]
    text = "".join(panel["svg"] for panel in encoded["panels"])
    kinds = re.findall(r'<g class="([^"]*)"', text)
    assert sum("off" in one.split() for one in kinds) == hidden
    assert sum("lacking" in one.split() for one in kinds) == lacking  # missed objects; what is wrong, hidden or not
    assert text.count("data:image") == 1  # of two panels of one picture
    assert (encoded["link"], encoded["name"]) == ("../../data/a%20b/%3C1%3E.jpg", "<1>.jpg")


def test_a_score_reaches_the_levels_that_it_reached() -> None:
    scores = {0.37: 37, 0.36999: 36, 0.07: 7, 0.29: 29, 0.57: 57, 1.0: 100, 0.0: 0, float(np.float32(0.7)): 70}
    for score, highest in scores.items():
        assert max(level for level in range(101) if fine(score) >= level * 100) == highest


def test_the_ends_of_a_ranking_and_what_they_lack_are_chosen() -> None:
    held = [{0}, {0}, {1}, {2, 1}, {3}, {0}, {0}, {1}]
    assert ends_and_classes(held, 1, 4) == [0, 3, 4, 7]
    assert ends_and_classes(held, 1, 3) == [0, 3, 7]
    assert ends_and_classes(held, 9, 9) == list(range(8))
    assert ends_and_classes([], 3, 9) == []
