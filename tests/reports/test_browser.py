"""Pages in a browser: what pointer and keys do, what stands without scripts, and that nothing is wider than the window."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convmae.reports.gallery import outline
from convmae.reports.page import Gain, Number, Page, Panel, Picture, Shape, Share, Threshold
from convmae.reports.plots import curves, histogram, matrix

CLASSES = ["cat", "dog"]
CONFIDENCES = (0.9, 0.6, 0.3)  # of the three detections on each picture, the last of them wrong
PICTURES = 5

Chromium = Callable[..., AbstractContextManager[Any]]


def picture(number: int) -> Picture:
    """Four objects, of which two are found: the first of each class."""
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8))
    mask = np.zeros((60, 80), bool)
    mask[10:30, 10:30] = True
    box, red = (10.0, 10.0, 30.0, 30.0), (255, 0, 0)
    truth = [
        Shape(box, red, CLASSES[label], label, outline(mask), score) for label, score in enumerate(CONFIDENCES[:2])
    ]
    truth += [Shape(box, red, name, label, outline(mask)) for label, name in enumerate(CLASSES)]
    found = [
        Shape(box, red, f"{CLASSES[rank % 2]} {score:.2f}", rank % 2, outline(mask), score, right=rank < 2)
        for rank, score in enumerate(CONFIDENCES)
    ]
    panels = [Panel(image, "ground truth", truth, truth=True, run=0), Panel(image, "prediction", found, run=0)]
    return Picture(panels, "", Path(f"/data/{number}.jpg"), classes=(0, 1) if number % 2 else (0,))


def threshold() -> Threshold:
    levels = np.arange(101)
    reached = [(levels <= 100 * score + 1e-9) * PICTURES for score in CONFIDENCES]
    right, wrong = np.array([reached[0], reached[1]]), np.array([reached[2], 0 * reached[2]])
    return Threshold(right, wrong, np.array([2 * PICTURES, 2 * PICTURES]))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of all kinds of blocks, with names and tables that are much wider than a telephone."""
    page = Page("A run", "/a/very/long/" + "folder" * 30)
    page.headline([Number("AP", "36.4 %", "mean")])
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 21)]
    page.figure("Loss", curves(rows, {"loss": "loss"}, "loss"))
    page.figure("Confusion", matrix([[0.75, 0.25], [0.5, 0.5]], CLASSES, counts=[[1500, 500], [1, 1]]))
    page.table(
        "Classes", ["class", *(f"measure {number}" for number in range(12))], [["x" * 80, *[Share(0.5)] * 12]] * 2
    )
    page.pictures(
        "Pictures",
        [picture(number) for number in range(PICTURES)],
        "",
        classes=CLASSES,
        thresholds=[threshold()],
        ranked=True,
    )
    heads = ["the second run of all less the first", "loss"]
    rows = [["a", Share(0.5), Gain(0.1), 1.0, "a sentence " * 30], ["b", Share(1), Gain(0.0), 2.0, ""]]
    page.table("Gains", ["class", "share", *heads, "said"], rows)
    page.pictures("Plain", [Picture(Image.new("RGB", (900, 40)), "a strip")], columns=1)
    page.figure("Sizes", histogram({"training": np.array([64.0, 96, 96, 96])}, "side, px"))
    page.facts("Data", {"path": "y" * 200, "z" * 60: "1"})
    page.code("Configuration", "a: " + "b" * 400)
    path = tmp_path_factory.mktemp("page") / "report" / "index.html"
    page.write(path)
    return path


@pytest.fixture
def shown(chromium: Chromium, page: Path) -> Iterator[Any]:
    with chromium() as window:
        window.open(page)
        yield window
        assert window.complaints() == []


def said(window: Any, selector: str) -> list[str]:
    """The texts of what is seen of the elements."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.innerText)"
    )
    found: list[str] = window.run(script, selector)
    return found


def shapes(window: Any, panel: str) -> int:
    """How many objects are drawn in the panels of a kind."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].filter(e => getComputedStyle(e).display !== 'none').length"
    )
    found: int = window.run(script, f"svg.shapes{panel} g")
    return found


def slide(window: Any, level: int) -> None:
    script = "const s = document.querySelector('input[type=range]'); s.value = arguments[0];"
    window.run(f"{script} s.dispatchEvent(new Event('input'))", level)


@pytest.mark.parametrize("width", [420, 1200])
@pytest.mark.parametrize("scripts", [True, False])
def test_nothing_is_wider_than_the_window(chromium: Chromium, page: Path, width: int, scripts: bool) -> None:
    with chromium(width, scripts=scripts) as window:
        window.open(page)
        assert window.run("return document.documentElement.scrollWidth") == width
        assert window.complaints() == []


def test_tables_can_be_read_in_any_window(chromium: Chromium, page: Path) -> None:
    places = "[...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect())"
    with chromium() as window:
        window.open(page)
        bars = window.run(f"return {places}.map(place => place.left)", "h2[id^=gains] + .scroll .bar")
        assert len(bars) == 2
        assert bars[0] == bars[1]  # whatever the number beside is
        heads = window.run(f"return {places}.map(place => place.height)", "h2[id^=gains] + .scroll thead th")
        lines = window.run(f"return {places}.map(place => place.width)", "h2[id^=gains] + .scroll th:nth-child(3)")
        assert max(heads) > 45  # pixels: a long head stands in several lines,
        assert lines[0] < 160  # as it is of short numbers
    with chromium(420) as window:
        window.open(page)
        (width,) = window.run(f"return {places}.map(place => place.width)", "h2[id^=gains] + .scroll td.long")
        assert 200 < width < 400  # a sentence is neither one line nor a pile of words


def test_without_scripts_all_stands_as_it_is_marked(chromium: Chromium, page: Path) -> None:
    with chromium(scripts=False) as window:
        window.open(page)
        assert not window.run("return document.documentElement.classList.contains('js')")
        reached = "F1 66.7 %, precision 100.0 %, recall 50.0 %: 10 right, 10 missed, 0 wrong"
        assert said(window, ".reached") == [f"At confidence 0.60 or more (best F1): {reached}"]
        assert said(window, "input, select, .mark") == []
        assert said(window, ".tally") == ["2 right, 2 missed, 0 wrong"] * PICTURES
        assert shapes(window, "") == PICTURES * (4 + 2)


def test_the_slider_moves_boxes_and_counts(shown: Any) -> None:
    for level, text, seen, missed in (
        (30, "F1 57.1 %, precision 66.7 %, recall 50.0 %: 10 right, 10 missed, 5 wrong", 3, 2),
        (61, "F1 40.0 %, precision 100.0 %, recall 25.0 %: 5 right, 15 missed, 0 wrong", 1, 3),
        (91, "F1 0.0 %, precision –, recall 0.0 %: 0 right, 20 missed, 0 wrong", 0, 4),
    ):
        slide(shown, level)
        assert said(shown, ".reached") == [text]
        assert shapes(shown, ":not([data-truth])") == PICTURES * seen
        assert shown.run("return document.querySelectorAll('[data-truth] .lacking').length") == PICTURES * missed
        assert said(shown, ".level") == [f"{level / 100:.2f}"]
    shown.click(".mark")
    assert said(shown, ".reached")[0].startswith("F1 66.7 %")


def test_what_python_and_the_script_say_is_the_same(shown: Any) -> None:
    for level in range(0, 101, 7):
        slide(shown, level)
        assert said(shown, ".reached") == [threshold().describe(level)]


def choose(window: Any, selector: str, value: str) -> None:
    script = (
        "const s = document.querySelector(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    )
    window.run(script, selector, value)


def test_a_class_and_an_order_are_chosen(shown: Any) -> None:
    choose(shown, ".class-choice", "1")
    assert said(shown, "figcaption a") == ["1.jpg", "3.jpg"]
    assert said(shown, ".tally") == ["1 right, 1 missed, 0 wrong"] * 2
    assert said(shown, ".reached") == ["F1 66.7 %, precision 100.0 %, recall 50.0 %: 5 right, 5 missed, 0 wrong"]
    assert said(shown, ".shown-count") == ["2 of 5 pictures"]
    choose(shown, ".order-choice", "best")
    assert said(shown, "figcaption a") == ["3.jpg", "1.jpg"]
    choose(shown, ".class-choice", "")
    choose(shown, ".order-choice", "name")
    assert said(shown, "figcaption a") == [f"{number}.jpg" for number in range(PICTURES)]


def test_pictures_open_large_and_the_keys_turn_them(shown: Any) -> None:
    small = shown.run("return document.querySelector('svg.shapes').getBoundingClientRect().width")
    shown.click(".open", 1)
    assert said(shown, ".viewer .place") == ["2 of 5"]
    assert said(shown, ".viewer-caption a") == ["1.jpg"]
    assert shown.run("return document.querySelector('.stage svg').getBoundingClientRect().width") > 2 * small
    shown.press("ArrowRight")
    assert said(shown, ".viewer-caption a") == ["2.jpg"]
    for _ in range(3):
        shown.press("ArrowLeft")
    assert said(shown, ".viewer .place") == ["5 of 5"]
    slide(shown, 30)
    assert said(shown, ".viewer .tally") == ["2 right, 2 missed, 1 wrong"]
    shown.press("Escape")
    assert said(shown, ".viewer") == []
    assert said(shown, "figcaption a") == [f"{number}.jpg" for number in range(PICTURES)]
    assert shown.run("return document.activeElement.closest('figure').dataset.name") == "4.jpg"
    assert len(said(shown, "input[type=range]")) == 1
    shown.press("Enter")
    assert said(shown, ".viewer .place") == ["5 of 5"]


def test_values_stand_under_the_pointer_and_the_keys(shown: Any) -> None:
    shown.point("[data-tips] .wide svg")
    step, loss = re.findall(r"[\d.]+", said(shown, ".tip")[0])
    assert float(loss) == pytest.approx(1 / float(step), abs=1e-4)
    shown.press("Tab")
    shown.run("document.querySelectorAll('[data-tips]')[1].focus()")
    shown.press("ArrowRight")
    assert said(shown, ".tip") == ["cat → cat: 75.0 %\n1,500"]
    shown.press("ArrowRight")
    assert said(shown, ".tip") == ["cat → dog: 25.0 %\n500"]
    shown.press("Escape")
    assert said(shown, ".tip") == []
    shown.run("document.querySelectorAll('[data-tips]')[2].focus()")
    tips = [shown.press("ArrowRight") or said(shown, ".tip")[0] for _ in range(4)]
    assert tips[1:3] == ["side, px: 53.8 to 76.1\ntraining 25 %", "side, px: 76.1 to 108\ntraining 75 %"]
    assert tips[0].endswith("training 0 %")


def test_letters_on_a_matrix_can_be_read_in_light_and_dark(chromium: Chromium, page: Path) -> None:
    letters = "[...document.querySelectorAll('h2[id^=confusion] + .figure .wide text')]"
    script = f"return {letters}.filter(e => /^(75|25)$/.test(e.textContent)).map(e => getComputedStyle(e).fill)"
    for dark, sure, unsure in (
        (False, "rgb(18, 21, 24)", "rgb(27, 31, 36)"),
        (True, "rgb(18, 21, 24)", "rgb(230, 229, 225)"),
    ):
        with chromium(dark=dark) as window:
            window.open(page)
            assert window.run(script) == [sure, unsure]  # on full and on faint colour


def test_pictures_have_names_and_controls_have_labels(shown: Any) -> None:
    assert shown.run("return [...document.images].every(image => image.alt)")
    assert shown.run("return [...document.querySelectorAll('svg.shapes')].every(svg => svg.getAttribute('aria-label'))")
    controls = "[...document.querySelectorAll('input, select')].every(one => one.closest('label'))"
    assert shown.run(f"return {controls}")
    named = "[...document.querySelectorAll('button')].every(one => one.ariaLabel || one.innerText || one.textContent)"
    assert shown.run(f"return {named}")
