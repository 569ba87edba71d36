"""Overlays: drawn where they belong, legible on small pictures, and forgiving of odd boxes and labels."""

import numpy as np
import pytest
from names import NASTY
from PIL import Image

from convmae.reports.drawing import LEGIBLE, column, draw_boxes, draw_labels, enlarge, legend, pair, palette, row

RED, GREEN = (255, 0, 0), (0, 255, 0)


def black(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.int64)


def test_small_pictures_are_enlarged_and_large_ones_kept() -> None:
    small, scale = enlarge(black(128, 96))
    assert small.size == (LEGIBLE, LEGIBLE * 96 // 128)
    assert scale == LEGIBLE / 128
    large, scale = enlarge(black(1000, 700))
    assert (large.size, scale) == ((1000, 700), 1.0)


def test_a_box_is_drawn_at_its_corners_in_the_enlarged_picture() -> None:
    drawn = pixels(draw_boxes(black(120, 120), [[30, 40, 90, 100]], [""], colors=[RED]))
    rows, columns = np.nonzero((drawn == RED).all(axis=2))
    scale = LEGIBLE / 120
    corners = [columns.min(), rows.min(), columns.max(), rows.max()]
    np.testing.assert_allclose(corners, np.array([30, 40, 90, 100]) * scale, atol=2)


def test_a_mask_tints_its_area_and_leaves_the_rest() -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    drawn = pixels(draw_boxes(black(60, 60), [[20, 20, 40, 40]], [""], mask[None], [GREEN]))
    scale = LEGIBLE // 60
    inside = drawn[26 * scale : 34 * scale, 26 * scale : 34 * scale]
    assert (inside[..., 1] > 50).all()
    assert (inside[..., 0] == 0).all()
    assert drawn[: 19 * scale].sum() < drawn.sum() / 20


def test_tags_stay_inside_the_picture_and_apart() -> None:
    """Four objects at the same place, in a corner: each tag is its own, and none is cut off."""
    boxes = [[0, 0, 30, 30]] * 4
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    drawn = pixels(draw_boxes(black(200, 200), boxes, ["disc 0.91"] * 4, colors=colors))
    areas = [(drawn == color).all(axis=2).sum() for color in colors]
    assert min(areas[:3]) > 0.5 * max(areas)


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 5], [50, 50, 40, 40], [-20, -20, 300, 300], [99.9, 99.9, 100.2, 100.2], [0.2, 3, 0.4, 90]]
)
def test_odd_boxes_are_drawn_without_complaint(box: list[float]) -> None:
    assert draw_boxes(black(100, 100), [box], ["triangle 0.50"]).size == (LEGIBLE, LEGIBLE)


def test_no_boxes_leave_the_picture_as_it_is() -> None:
    assert pixels(draw_boxes(black(50, 50), np.zeros((0, 4)), [], np.zeros((0, 50, 50)))).sum() == 0


def test_labels_have_their_colour_and_unknown_ones_are_grey() -> None:
    labels = np.zeros((48, 48), np.uint8)
    labels[:, 16:] = 1
    labels[:, 32:] = 255
    drawn = pixels(draw_labels(black(48, 48), labels, [RED, GREEN], opacity=1.0))
    scale = LEGIBLE // 48
    for column_, color in ((8, RED), (24, GREEN), (40, (128, 128, 128))):
        assert tuple(drawn[100, column_ * scale]) == color
    assert drawn[100, 16 * scale].max() < 128  # the line between two labels


def test_palette_colours_differ_and_do_not_depend_on_the_count() -> None:
    many = palette(150)
    assert many[:20] == palette(20)
    assert len(set(many)) == 150
    few = np.array(palette(20))
    distances = np.linalg.norm(few[:, None] - few, axis=2) + 1000 * np.eye(20)
    assert distances.min() > 30


def test_row_pair_and_column_keep_the_pictures() -> None:
    left, right = Image.new("RGB", (100, 100), RED), Image.new("RGB", (50, 50), GREEN)
    both = pixels(pair(left, right, ("ground truth", "a prediction whose caption is too long for one line")))
    assert (both == RED).all(axis=2).sum() == 100 * 100
    assert (both == GREEN).all(axis=2).sum() == 100 * 100
    assert row([left], [""]).width == 100
    stacked = column([left, right])
    assert stacked.size == (100, 150)
    assert stacked.getpixel((49, 149)) == GREEN
    assert stacked.getpixel((50, 149)) not in (RED, GREEN)


def test_a_title_stands_above_the_pictures_and_is_not_cut_off() -> None:
    left = Image.new("RGB", (120, 50), RED)
    short, long = column([left], "short"), column([left], "a title that is much too long for a single line")
    assert 50 < short.height < long.height
    for titled in (short, long):
        assert (pixels(titled)[-50:] == RED).all()
        band = pixels(titled)[:-50]
        assert band.max() > 200  # ink
        assert band[:, -2:].max() < 60
        assert band[:2].max() < 60


def test_a_legend_shows_every_class_once_in_columns() -> None:
    names = ["a", "a very long name of a class"] + [f"class {number}" for number in range(63)]
    colours = palette(65)
    sheet = legend(names, colours)
    counts = {colour: count for count, colour in sheet.getcolors(1_000_000)}
    assert len({counts[colour] for colour in colours}) == 1  # squares of one size, none of them covered
    assert legend(names[:30], colours[:30]).height == sheet.height > legend(names[:29], colours[:29]).height


@pytest.mark.parametrize("name", NASTY)
def test_any_name_can_be_a_label_a_caption_a_title_and_in_a_legend(name: str) -> None:
    small = black(120, 90)
    tagged = draw_boxes(small, [[20, 40, 60, 80]], [f"{name} 0.93"], colors=[RED])
    assert pixels(tagged)[..., 0].astype(bool).sum() > pixels(draw_boxes(small, [[20, 40, 60, 80]], [""])).any(2).sum()
    assert row([small, small], [name, "other"]).width == pair(small, small, ("", "")).width
    assert column([small], name).width == 120
    sheet = pixels(legend([name, "other"], [RED, GREEN]))
    ink = (sheet > 200).all(axis=2)
    assert ink[16:48].any()
    assert not ink[:, -8:].any()  # nothing is cut off
    assert sheet.shape[1] < 600


def test_a_label_too_long_for_its_picture_loses_its_middle_and_keeps_its_score() -> None:
    def draw(label: str) -> np.ndarray:
        return pixels(draw_boxes(black(100, 100), [[0, 60, 99, 90]], [label], colors=[RED]))

    drawn = draw("x" * 200 + " 0.93")
    assert np.array_equal(drawn, draw("x" * 90 + "y" * 20 + "x" * 90 + " 0.93"))
    assert not np.array_equal(drawn, draw("x" * 200 + " 0.98"))


def test_a_caption_of_one_long_word_stays_under_its_own_picture() -> None:
    sheet = pixels(row([black(200, 100)] * 2, ["行" * 90, ""]))
    height = sheet.shape[0] - 100
    assert (sheet[:height, :200] > 200).any()
    assert not (sheet[:height, 200:] > 200).any()


def test_the_letters_of_a_tag_are_inside_it() -> None:
    """Devanagari's signs reach above and below what Latin letters take."""
    drawn = pixels(draw_boxes(black(480, 480), [[100, 200, 300, 300]], ["हिन्दी ूँ Åg"], colors=[GREEN]))[:190]
    rows = np.flatnonzero((drawn == GREEN).all(axis=2).any(axis=1))
    assert not drawn[: rows.min()].any()  # ink above the tag would show on the black picture
    assert (drawn[rows.min(), 120:180] == GREEN).all()
    assert (drawn[rows.min() : 190, 105:200] != GREEN).any()
