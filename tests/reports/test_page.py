"""Report pages: one file, nothing fetched, everything escaped; and the scalars and metrics that they rest on."""

import base64
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from names import NASTY
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.training.scalars import read_scalars
from convmae.reports.page import Gain, Number, Page, Picture, Share, environment, write_metrics
from convmae.reports.plots import axes, curves, lines, matrix

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Checks that elements close in the order they open, and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.elements: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        values = dict(attrs)
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag == "a":
            self.links.append(values["href"] or "")
        self.sources += [value or "" for key, value in attrs if key in ("src", "href") and tag not in ("a",)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write(page: Page, folder: Path) -> str:
    page.write(folder / "report" / "index.html")
    return (folder / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def full_page() -> Page:
    page = Page("A run", "of something")
    page.headline([Number("AP", "0.5", "of one")])
    page.text("About", ["One paragraph.", "Another."])
    page.table("Classes", ["name", "AP"], [["cat", 0.25], ["dog", None]], "A caption.")
    page.part("Pictures", "They follow.")
    page.figure("Loss", curves([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], {"loss": "loss"}, "loss"))
    page.figure("Confusion", matrix([[0.9, 0.1], [0.5, 0.5]], ["cat", "dog"]))
    page.pictures("Seen", [Picture(noise(32, 32), "one"), Picture(noise(40, 20))], legend=[("cat", (255, 0, 0))])
    page.facts("Environment", environment())
    page.code("Configuration", "a: 1\nb: 2\n")
    return page


def test_the_page_is_one_wellformed_file_that_fetches_nothing(full_page: Page, tmp_path: Path) -> None:
    text = write(full_page, tmp_path)
    outline = Outline(text)
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]
    assert all(source.startswith(("data:", "#")) for source in outline.sources)
    addresses = set(re.findall(r"https?://[^\s\"']+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_contents_lead_to_every_titled_block_and_ids_are_unique(full_page: Page, tmp_path: Path) -> None:
    outline = Outline(write(full_page, tmp_path))
    assert len(outline.ids) == len(set(outline.ids))
    assert len(outline.links) == 8
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)


def test_pages_can_be_put_together(full_page: Page, tmp_path: Path) -> None:
    page = Page("Both")
    for name in ("first", "second"):
        page.part(name)
        page.extend(full_page)
    assert [number.label for number in page.numbers] == ["AP", "AP"]
    outline = Outline(write(page, tmp_path))
    assert len(outline.ids) == len(set(outline.ids))
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert outline.elements.count("svg") == 6  # curves for narrow windows, too


def test_whatever_users_write_is_shown_and_not_run(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"' onload=x & so"
    page = Page(evil, evil)
    page.headline([Number(evil, evil, evil)])
    page.text(evil, [evil])
    page.table(evil, [evil, "n"], [[evil, 1]], evil)
    page.part(evil, evil)
    figure, plot = axes()
    plot.set_title(evil)
    plot.plot([0, 1], [0, 1], label=evil)
    plot.legend()
    page.figure(evil, figure, evil)
    page.pictures(evil, [Picture(noise(8, 8), evil)], evil, legend=[(evil, (1, 2, 3))])
    page.facts(evil, {evil: evil})
    page.code(evil, evil)
    text = write(page, tmp_path)
    outline = Outline(text)
    assert outline.elements.count("script") == 1  # the page's own
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize("name", NASTY)
def test_a_page_shows_any_name_as_text_and_is_utf8(name: str, tmp_path: Path) -> None:
    page = Page(name, name)
    page.headline([Number(name, name, name)])
    page.part(name, name)
    page.text(name, [name])
    page.table(name, ["class", name], [[name, 0.5], ["other", 1.0]], name)
    page.figure(name, matrix(np.eye(2), [name, "other"]), name)
    page.pictures(name, [Picture(noise(8, 8), name)], name, legend=[(name, (1, 2, 3))])
    page.facts(name, {name: name})
    page.code(name, f"names:\n- {name}\n")
    text = write(page, tmp_path)
    outline = Outline(text)
    assert outline.elements.count("script") == 1
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    shown_as = html.unescape(cells[0])
    assert shown_as == (name if name.isprintable() and name.strip() else shown_as)
    assert shown_as.strip() or not name  # nothing is left of a name of nothing


def test_a_figure_is_valid_svg_in_the_colours_of_the_page(tmp_path: Path) -> None:
    page = Page("t")
    page.figure("Loss", lines([0, 1, 2], {"a": [0, 1, 2], "b": [2, 1, 0]}, "x", "y"))
    page.figure("Again", lines([0, 1, 2], {"a": [0, 1, 2]}, "x", "y"))
    found = re.findall(r"<svg.*?</svg>", write(page, tmp_path), flags=re.DOTALL)
    assert len(found) == 4  # each for wide and for narrow windows
    for number, svg in enumerate(found):
        ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
        assert "var(--ink)" in svg
        assert "var(--line-0)" in svg
        assert "#101112" not in svg
        # Every reference is to an element of the same figure.
        references = set(re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", svg))
        ids = set(re.findall(r'\bid="([^"]*)"', svg))
        assert {one or other for one, other in references} <= ids
        assert all(name.startswith(f"{'fn'[number % 2]}{number // 2}-") for name in ids)


def test_pictures_come_back_as_they_were_given(tmp_path: Path) -> None:
    flat = Image.new("RGB", (50, 30), (10, 200, 30))
    large = noise(3000, 10)
    page = Page("t")
    page.pictures("p", [Picture(flat), Picture(noise(64, 64)), Picture(large), Picture(flat.convert("L"))])
    sources = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', write(page, tmp_path))
    images = [(kind, Image.open(io.BytesIO(base64.b64decode(data)))) for kind, data in sources]
    assert [kind for kind, _ in images] == ["png", "jpeg", "jpeg", "png"]
    assert images[0][1].convert("RGB").getpixel((5, 5)) == (10, 200, 30)
    difference = np.asarray(images[1][1], np.float64) - np.asarray(noise(64, 64), np.float64)
    assert np.abs(difference).mean() < 20
    assert max(images[2][1].size) == 1400


@pytest.mark.parametrize(
    ("value", "shown", "key"),
    [
        (0.12345, "0.123", "0.12345"),
        (1234567, "1,234,567", "1234567.0"),
        (7, "7", "7.0"),
        (float("nan"), "–", ""),
        (None, "–", ""),
        (np.float32(0.5), "0.500", "0.5"),
        (np.int64(12), "12", "12.0"),
        (123.456, "123.5", "123.456"),
        (0.00012, "1.2e-04", "0.00012"),
        (Share(0.123), "12.3", "0.123"),
    ],
)
def test_numbers_read_well_and_sort_by_value(tmp_path: Path, value: float | None, shown: str, key: str) -> None:
    page = Page("t")
    page.table("n", ["a", "b"], [["x", value], ["y", 2.0]])
    cell = re.search(r'<td class="number" data-key="([^"]*)">([^<]*)</td>', write(page, tmp_path))
    assert cell is not None
    assert cell.groups() == (key, shown)


def test_a_column_of_shares_has_bars_and_one_of_counts_has_none(tmp_path: Path) -> None:
    page = Page("t")
    rows = [[Share(0.25), 0, 0.5, Gain(-0.125)], [Share(1.0), 1, 0.5, Gain(0.5)], [None, 1, 0.5, Gain(-0.0001)]]
    page.table("n", ["share", "count", "loss", "gain"], rows)
    text = write(page, tmp_path)
    assert re.findall(r"--part:([\d.]+)", text) == ["0.2500", "1.0000"]
    assert re.findall(r"<button[^>]*>([^<]*)</button></th>", text) == ["share,\u00a0%", "count", "loss", "gain,\u00a0%"]
    cells = re.findall(r"<td[^>]*>(?:<span[^>]*></span>)?([^<]*)</td>", text)
    assert cells == ["25.0", "0", "0.500", "-12.5", "100.0", "1", "0.500", "+50.0", "–", "1", "0.500", "0.0"]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns and a row of 1"):
        Page("t").table("n", ["a", "b"], [["x"]])


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="can't be written"):
        Page("t").write(tmp_path / "file" / "index.html")


def test_an_older_page_is_replaced_and_no_partial_file_is_left(tmp_path: Path) -> None:
    for title in ("first", "second"):
        Page(title).write(tmp_path / "index.html")
    assert "<h1>second</h1>" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == 1


def test_no_scalars_are_no_rows_and_draw_a_figure_that_says_so(tmp_path: Path) -> None:
    assert read_scalars(tmp_path) == []
    figure = curves([], {"loss": "loss"}, "loss")
    assert figure.axes[0].texts[0].get_text() == "nothing was logged"


def test_curves_draw_the_values_logged() -> None:
    rows = [{"step": step, "loss": 1.0 / step} for step in range(1, 200)] + [{"step": 100, "mIoU": 0.5}]
    plot = curves(rows, {"loss": "loss", "mIoU": "mIoU"}, "value").axes[0]
    faint, mean, metric = plot.get_lines()
    np.testing.assert_allclose(faint.get_ydata(), [1.0 / step for step in range(1, 200)])
    assert np.all(np.diff(np.asarray(mean.get_ydata())[3:-3]) < 0)
    np.testing.assert_allclose(
        np.asarray(mean.get_ydata())[100], np.mean([1 / step for step in range(100, 103)]), rtol=1e-3
    )
    assert list(metric.get_xydata()[0]) == [100, 0.5]


def test_validation_is_a_chart_where_there_were_several_evaluations(tmp_path: Path) -> None:
    rows = [{"step": 10, "loss": 1.0}, {"step": 20, "mIoU": 0.25}]
    for evaluations in (1, 2):
        page = Page("A run")
        page.validation([*rows, {"step": 30, "mIoU": 0.5}][: evaluations + 1], {"mIoU": "mIoU"}, "score")
        assert ("<h2" in write(page, tmp_path / str(evaluations))) == (evaluations > 1)


def test_metrics_are_plain_json(tmp_path: Path) -> None:
    values = {
        "AP": np.float32(0.5),
        "n": np.int64(3),
        "bad": float("nan"),
        "by": {"cat": torch.tensor(0.25)},
        "l": [1, 2],
    }
    write_metrics(tmp_path / "run" / "metrics.json", values)
    text = (tmp_path / "run" / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"AP": 0.5, "n": 3, "bad": None, "by": {"cat": 0.25}, "l": [1, 2]}
    assert "NaN" not in text


def test_metrics_keep_any_name_as_it_is(tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.json", {"classes": {name: number for number, name in enumerate(NASTY)}})
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="ascii"))
    assert content["classes"].keys() == set(NASTY)


def test_the_environment_names_versions_and_device() -> None:
    facts = environment()
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert "threads" in facts["device"]
    assert all(isinstance(value, str) and value for value in facts.values())
