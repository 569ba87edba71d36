"""Figures are readable and whole whatever their names are: no formula, nothing collapsed, no line without its label."""

import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from names import NASTY

from convmae.engine.text import shown
from convmae.reports.plots import LABEL, LEGEND, curves, lines, matrix
from convmae.reports.svg import svg as _svg


def texts(figure: Figure) -> list[str]:
    """What a figure's SVG says, by an XML parser; any warning of matplotlib fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = _svg(figure)
    root = ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", NASTY)
def test_a_confusion_matrix_shows_every_name_as_text(name: str) -> None:
    said = texts(matrix(np.eye(2), [name, "other"]))
    assert said.count(shown(name, LABEL)) == 2  # along both axes
    assert said.count("100") == 2


def test_thirty_long_names_leave_room_for_the_matrix() -> None:
    figure = matrix(np.eye(30), [f"{number} " + "long " * 40 for number in range(30)])
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    box = figure.axes[0].get_position()
    assert box.width * width > 0.5 * width
    assert box.height * height > 0.5 * height


def test_wide_letters_stay_within_the_figure() -> None:
    figure = matrix(np.eye(3), ["行" * 14, "한" * 14, "x"])
    figure.draw_without_rendering()
    for label in figure.axes[0].get_yticklabels():
        assert label.get_window_extent().x0 >= 0


@pytest.mark.parametrize("draw", ["curves", "lines"])
def test_every_line_is_in_the_legend(draw: str) -> None:
    names = dict.fromkeys(NASTY)
    if draw == "lines":
        figure = lines([0, 1], {name: [number, number] for number, name in enumerate(names)}, "x", "y")
    else:
        rows = [{"step": step, **{str(number): number for number in range(len(names))}} for step in (1, 2)]
        figure = curves(rows, {name: str(number) for number, name in enumerate(names)}, "loss")
    said = texts(figure)
    for name in names:
        assert shown(name, LEGEND) in said


def test_long_labels_that_look_alike_are_lines_of_their_own() -> None:
    alike = ["a" * 60, "a" * 61]
    figure = lines([0, 1], {alike[0]: [0, 0], alike[1]: [1, 1]}, "x", "y")
    assert len(figure.axes[0].get_lines()) == 2
    assert len([said for said in texts(figure) if said.startswith("aaa")]) == 2


def test_an_axis_keeps_its_numbers() -> None:
    said = texts(curves([{"step": 1, "loss": 1e-7}, {"step": 2, "loss": 3e-7}], {"loss": "loss"}, "loss"))
    assert {"step", "loss"} <= set(said)
    assert not [text for text in said if re.search(r"[$\\{]", text)]
