"""Pictures with boxes, masks and label maps on them, legible also where the picture is small."""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from convmae.engine.text import shown, visible
from convmae.reports.fonts import Lettering
from convmae.reports.tags import place_tags

Colour = tuple[int, int, int]

LEGIBLE = 480  # smaller pictures are enlarged to this long side before anything is drawn on them
THIN = 2  # pixels; outlines up to this width have no dark rim
_BAND = 64  # rows of a label map that are mixed with its picture at a time
TITLE = 22  # pixels, the height of a title's font
LEGEND_FONT, LEGEND_ROWS, LEGEND_WIDTH = 16, 30, 480  # pixels, names in a column, pixels of a name
INK, PAPER = (27, 31, 36), (240, 240, 237)
# Apart in hue and in lightness, so that colour-blind readers tell the first ten apart as well.
FIRST_COLOURS: tuple[Colour, ...] = (
    (230, 90, 60), (60, 150, 240), (255, 195, 50), (50, 180, 120), (200, 90, 200),
    (120, 220, 230), (240, 140, 180), (150, 110, 60), (110, 110, 235), (170, 205, 70),
)  # fmt: skip


def palette(count: int) -> list[Colour]:
    """Returns ``count`` RGB colours, the first ones the same for any count; up to 250 they differ."""
    colours = _colours_apart()
    return [colours[index % len(colours)] for index in range(count)]


@functools.cache
def _colours_apart() -> list[Colour]:
    """The first colours, then those of a list of tints, each the farthest from all that stand before it."""
    tints = [
        colorsys.hls_to_rgb(hue / 30, lightness, saturation)
        for hue in range(30)
        for lightness in (0.3, 0.45, 0.6, 0.75)
        for saturation in (0.45, 0.85)
    ]
    candidates = np.round(255 * np.array(tints))
    weights = np.sqrt([2.0, 4.0, 3.0])  # approximates perceived distance in RGB
    colours = list(FIRST_COLOURS)
    distances = np.stack([np.linalg.norm((candidates - color) * weights, axis=1) for color in colours]).min(axis=0)
    for _ in candidates:
        farthest = candidates[distances.argmax()]
        colours.append((int(farthest[0]), int(farthest[1]), int(farthest[2])))
        distances = np.minimum(distances, np.linalg.norm((candidates - farthest) * weights, axis=1))
    return colours


def object_colours(count: int) -> list[Colour]:
    """Returns colours for ``count`` objects of one class: bright ones in turn, so that neighbours can be told apart."""
    return [FIRST_COLOURS[index % len(FIRST_COLOURS)] for index in range(count)]


def enlarge(image: Image.Image) -> tuple[Image.Image, float]:
    """Returns the picture in RGB with a long side of at least LEGIBLE pixels, and the factor by which it grew."""
    scale = max(1.0, LEGIBLE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), scale


def draw_boxes(
    image: Image.Image,
    boxes: ArrayLike,
    labels: Sequence[str],
    masks: ArrayLike | None = None,
    colors: Sequence[Colour] | None = None,
) -> Image.Image:
    """Returns the picture, enlarged if it is small, with boxes, their labels and the masks.

    boxes: [N, 4] left, top, right, bottom in pixels of ``image``, those whose labels matter most first; masks: [N, H, W] bool;
    colors: one a box. The outline of a small object is thin, and a label is written only where it fits (``place_tags``).
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    colors = palette(len(corners)) if colors is None else colors
    canvas, scale = enlarge(image)
    corners = corners * scale
    strokes = [_stroke(box, max(canvas.size)) for box in corners.tolist()]
    if masks is not None:
        for mask, color, stroke in zip(np.asarray(masks, np.bool_), colors, strokes, strict=True):
            _paint_mask(canvas, mask, color, stroke)
    draw = ImageDraw.Draw(canvas)
    for (left, top, right, bottom), color, stroke in zip(corners.tolist(), colors, strokes, strict=True):
        # Pillow refuses a corner that lies before the other, and a prediction may be thinner than its outline.
        right, bottom = max(right, left + stroke), max(bottom, top + stroke)
        if stroke > THIN:
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=INK, width=stroke + 2)
        draw.rectangle((left, top, right, bottom), outline=color, width=stroke)
    lettering = Lettering(max(14, round(max(canvas.size) / 25)))
    texts = [lettering.shorten(shown(label), canvas.width - 8) if label else "" for label in labels]
    extents = [(*lettering.extent(text), lettering.length(text)) if text else (0.0, 0.0, 0.0) for text in texts]
    sizes = [(length + 8, below - above + 6) if length else None for above, below, length in extents]
    for text, place, size, extent, color in zip(
        texts, place_tags(corners, sizes, canvas.size), sizes, extents, colors, strict=True
    ):
        if place and size:
            draw.rounded_rectangle((*place, place[0] + size[0], place[1] + size[1]), radius=3, fill=color)
            ink = INK if 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 128 else (255, 255, 255)
            lettering.write(draw, place[0] + 4, place[1] + 3 - extent[0], text, ink)
    return canvas


def draw_labels(
    image: Image.Image, label_map: ArrayLike, palette: Sequence[Colour], opacity: float = 0.65
) -> Image.Image:
    """Returns the picture in grey, enlarged if small, with each label's colour over it and a dark line between labels.

    label_map: [H, W] integers; label i is painted in ``palette[i]``, and one without a colour (255, say) grey.
    """
    labels = np.asarray(label_map)
    grey = enlarge(image)[0].convert("L")  # on it the colours are those of the legend
    colours = np.vstack([np.asarray(palette, np.uint8).reshape(-1, 3), np.full((1, 3), 128, np.uint8)])
    index = np.full(labels.shape, len(palette), np.uint8 if len(palette) < 256 else np.int32)
    np.copyto(index, labels, where=(labels >= 0) & (labels < len(palette)), casting="unsafe")
    index = np.asarray(Image.fromarray(index).resize(grey.size, Image.Resampling.NEAREST))
    photo, drawn = np.asarray(grey), np.empty((*index.shape, 3), np.uint8)
    for top in range(0, len(index), _BAND):  # as floats all at once would take seventy bytes a pixel
        rows = slice(top, top + _BAND)
        part, light = index[rows], photo[rows, :, None].astype(np.float32)
        mixed = light + opacity * (colours[part].astype(np.float32) - light)
        edge = np.zeros(part.shape, np.bool_)
        edge[:, 1:] |= part[:, 1:] != part[:, :-1]
        above = index[max(top - 1, 0) : top + len(part) - 1]
        below = slice(len(part) - len(above), None)  # all, but for the picture's first row
        edge[below] |= part[below] != above
        mixed[edge] *= 0.35
        drawn[rows] = np.clip(mixed, 0, 255).astype(np.uint8)
    return Image.fromarray(drawn)


def row(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Returns the pictures side by side at the height of the tallest, each under its caption."""
    height = max(image.height for image in images)
    fitted = [
        image.convert("RGB").resize(
            (max(1, round(image.width * height / image.height)), height), Image.Resampling.BICUBIC
        )
        for image in images
    ]
    lettering = Lettering(max(12, round(height / 22)))
    gap = max(4, round(height / 80))
    lines = [
        lettering.wrap(visible(caption), image.width - 2 * gap) for image, caption in zip(fitted, captions, strict=True)
    ]
    line_height = round(1.25 * lettering.size)
    band = max(len(wrapped) for wrapped in lines) * line_height + 2 * gap
    sheet = Image.new("RGB", (sum(image.width for image in fitted) + gap * (len(fitted) - 1), height + band), INK)
    draw = ImageDraw.Draw(sheet)
    left = 0
    for image, wrapped in zip(fitted, lines, strict=True):
        for number, line in enumerate(wrapped):
            lettering.write(draw, left + gap, gap + number * line_height + lettering.ascent, line, PAPER)
        sheet.paste(image, (left, band))
        left += image.width + gap
    return sheet


def column(images: Sequence[Image.Image], title: str = "") -> Image.Image:
    """Returns the pictures one below the other, at the left and as large as they are, under a title if there is one."""
    width = max(image.width for image in images)
    lettering = Lettering(TITLE)
    gap, line_height = TITLE // 2, round(1.25 * TITLE)
    lines = lettering.wrap(visible(title), width - 2 * gap)
    top = 2 * gap + len(lines) * line_height if lines else 0
    sheet = Image.new("RGB", (width, top + sum(image.height for image in images)), INK)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        lettering.write(draw, gap, gap + number * line_height + lettering.ascent, line, PAPER)
    for image in images:
        sheet.paste(image.convert("RGB"), (0, top))
        top += image.height
    return sheet


def legend(names: Sequence[str], colors: Sequence[Colour]) -> Image.Image:
    """Returns the names beside squares of their colours, from top to bottom in columns of at most LEGEND_ROWS.

    Of a name that is wider than LEGEND_WIDTH the beginning and the end stay.
    """
    lettering = Lettering(LEGEND_FONT)
    texts = [lettering.shorten(shown(name), LEGEND_WIDTH) for name in names]
    line, gap = 2 * LEGEND_FONT, LEGEND_FONT
    columns = [range(first, min(first + LEGEND_ROWS, len(names))) for first in range(0, len(names), LEGEND_ROWS)]
    widths = [math.ceil(max(lettering.length(texts[index]) for index in column)) + line + 2 * gap for column in columns]
    sheet = Image.new("RGB", (sum(widths), len(columns[0]) * line + 2 * gap), INK)
    draw = ImageDraw.Draw(sheet)
    left = gap
    for column, width in zip(columns, widths, strict=True):
        for row, index in enumerate(column):
            top = gap + row * line
            draw.rectangle((left, top + 3, left + line - 7, top + line - 4), fill=colors[index])
            middle = top + line // 2 + (lettering.ascent - lettering.descent) / 2
            lettering.write(draw, left + line, middle, texts[index], PAPER)
        left += width
    return sheet


def pair(left: Image.Image, right: Image.Image, captions: tuple[str, str]) -> Image.Image:
    """Returns two pictures side by side, each under its caption."""
    return row([left, right], captions)


def _stroke(box: Sequence[float], longest: int) -> int:
    """Returns how wide a box's outline is: a twelfth of its shorter side, at most what suits the picture's longer side."""
    return min(max(3, round(longest / 160)), max(1, round(min(box[2] - box[0], box[3] - box[1]) / 12)))


def _paint_mask(canvas: Image.Image, mask: NDArray[np.bool_], color: Colour, stroke: int) -> None:
    """Tints the mask's area on ``canvas`` and draws its outline, thin where the box's ``stroke`` is.

    The mask may be smaller than the canvas.
    """
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(canvas.size, Image.Resampling.BILINEAR)
    area = soft.point(lambda value: 255 if value >= 128 else 0)
    inner = area.filter(ImageFilter.MinFilter(5 if stroke > THIN else 3))
    tint, line = (Image.new("L", canvas.size, round(255 * share)) for share in (0.38, 0.9))
    black = Image.new("L", canvas.size)
    canvas.paste(color, mask=Image.composite(tint, black, inner))
    outline = Image.composite(black, area, inner)
    canvas.paste(color, mask=Image.composite(line, black, outline))
