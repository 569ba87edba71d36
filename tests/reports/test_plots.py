"""Figures are readable and whole whatever their names are: no formula, nothing collapsed, no line without its label."""

import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from names import NASTY

from convmae.engine.text import shown
from convmae.reports.plots import LABEL, LEGEND, curves, histogram, lines, matrix, spreads
from convmae.reports.svg import figure_block
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


def test_a_legend_of_long_names_stays_within_the_axes_on_a_telephone() -> None:
    rows = [{"step": step, "one": 1.0, "two": float(step)} for step in range(5)]
    figure = curves(rows, {"first " + "long " * 40: "one", "second": "two"}, "loss")
    figure_block(figure)  # which leaves it as it is drawn for narrow windows
    axes, legend = figure.axes[0], figure.axes[0].get_legend()
    assert legend is not None
    inside, outside = legend.get_window_extent(), axes.get_window_extent()
    assert outside.x0 <= inside.x0
    assert inside.x1 <= outside.x1


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


def test_a_histogram_tells_the_share_of_all_sizes_between_roots_of_two() -> None:
    sizes = {"training": np.array([0.2, 1, 8, 9, 11.4, 32.0]), "validation": np.array([8.0])}
    figure = histogram(sizes, "side, px")
    assert figure.values is not None
    told, spans = figure.values["lines"], figure.values["spans"]
    assert [line["label"] for line in told] == list(sizes)
    for line, expected in zip(told, ({1: 33.33, 8: 33.33, 11.31: 16.67, 32: 16.67}, {8: 100}), strict=True):
        assert {round(x, 2): share for x, share in line["points"] if share} == pytest.approx(expected)
        assert line["points"][0][1] == line["points"][-1][1] == 0  # room at either end
        assert len(line["points"]) == len(spans)
    centre = [x for x, _ in told[0]["points"]]
    for x, span in zip(centre, spans, strict=True):
        low, high = map(float, span.split(" to "))
        assert (low, high) == pytest.approx((x / 2**0.25, x * 2**0.25), rel=0.01)
    assert "share, %" in texts(figure)
    assert histogram({"training": np.zeros(0)}, "side, px").values is not None  # of no sizes


def test_spreads_are_drawn_with_their_ends_and_told_by_their_means() -> None:
    values = {"one": {10: [40, 44], 100: [60]}, "other": {10: [50.0], 100: []}}
    ends = {"one": {10: (16.6, 67.4)}}
    figure = spreads(values, ends, {10: "10 %\n10", 100: "100 %\n100"}, "labels", "AP, %")
    assert {"one", "other", "labels", "AP, %", "10 %", "100"} <= set(texts(figure))
    assert figure.values is not None
    assert figure.values["lines"] == [
        {"label": "one", "points": [[10, 42], [100, 60]]},
        {"label": "other", "points": [[10, 50]]},
    ]
    assert figure.values["spans"] == ["10 %, 10", "100 %, 100"]  # one for each x that is told
    (plot,) = figure.axes
    assert any(np.allclose(line.get_ydata(), (16.6, 67.4)) for line in plot.get_lines())
    low, high = plot.get_ylim()
    assert 16.6 < low < 40  # by the values, not by the ends
    assert 60 < high < 100
    assert spreads({"one": {10: []}}, {}, {10: "10 %"}, "labels", "AP").values is not None  # of nothing yet
