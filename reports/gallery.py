"""Pictures on a page: a picture as it is, or panels of one with the objects on them as outlines, which a reader can filter."""

from __future__ import annotations

import base64
import io
import math
import os
import urllib.parse
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from convmae.engine.text import shown
from convmae.reports.drawing import Colour
from convmae.reports.fonts import Lettering
from convmae.reports.tags import Place, place_tags
from convmae.reports.thresholds import tally

LARGEST_PICTURE = 1400  # longer sides are shrunk to this many pixels, to keep the page light
LARGEST_PANEL = 640  # and to this many where a picture stands in panels, of which a page has many
FINE = 10_000  # confidences are whole numbers of this part, rounded down
THIN = 0.06  # of the picture's longer side: a smaller object has a thin outline
LETTERS = 40  # names are as high as the picture's longer side divided by this
MEASURED = 20  # pixels, the size at which names are measured
CROWD = 15  # of more objects on a picture the boxes are not shown at first where there are outlines


@dataclass(frozen=True)
class Shape:
    """An object on a picture, in its pixels: an annotated one, or one that was detected.

    path: its outline as ``outline`` gives it; score: a detection's confidence, or the greatest of those that find an annotated
    object, None if none does; right: whether a detection finds an object; counted: not so of a crowd and what lies in one.
    """

    box: tuple[float, float, float, float]
    color: Colour
    name: str = ""
    label: int = 0
    path: str = ""
    score: float | None = None
    right: bool = True
    counted: bool = True


@dataclass(frozen=True)
class Panel:
    """A picture with shapes on it, the surest detections first; several panels may share one picture.

    run: the number of the slider that hides detections, and that annotated objects are found or missed by; -1 for none.
    """

    image: Image.Image
    title: str = ""
    shapes: Sequence[Shape] = ()
    truth: bool = False
    run: int = -1


@dataclass(frozen=True)
class Picture:
    """A picture or its panels; beside the caption stand the file's name, which leads to it, and how detections do."""

    image: Image.Image | Sequence[Panel]
    caption: str = ""
    file: Path | None = None
    name: str = ""
    classes: Sequence[int] = field(default=())  # numbers of those that it holds


def ends_and_classes(held: Sequence[Collection[int]], ends: int, most: int) -> list[int]:
    """Returns which of a ranking's pictures to show, in its order, from the classes that each holds.

    Those are ``ends`` at either end and, while they are fewer than ``most``, the first that hold a class not shown yet.
    """
    chosen = {*range(min(ends, len(held))), *range(max(0, len(held) - ends), len(held))}
    shown = {label for number in chosen for label in held[number]}
    for number, classes in enumerate(held):
        if len(chosen) < most and not shown.issuperset(classes):
            chosen.add(number)
            shown.update(classes)
    return sorted(chosen)


def outline(mask: np.ndarray) -> str:
    """Returns the outlines of a mask [H, W] as an SVG path in its pixels, simplified to half a pixel."""
    import cv2

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return ""
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    # OpenCV's contours run through the centres of pixels: of small ones the outline is within a quarter of a pixel.
    finer = cv2.copyMakeBorder(part.repeat(2, axis=0).repeat(2, axis=1), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    contours, _ = cv2.findContours(finer, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, max(1.0, max(mask.shape) / 640), True).reshape(-1, 2)
        if len(points) > 2:
            corners = (points - 0.5) / 2 + (left, top)
            parts.append("M" + " ".join(f"{x:.4g} {y:.4g}" for x, y in corners.tolist()) + "z")
    return "".join(parts)


def encode(picture: Picture, anchor: str, level: int | Sequence[int], folder: Path) -> dict[str, Any]:
    """Returns what the template shows of a picture. level: that of each run's slider; folder: that of the page."""
    levels = [level] if isinstance(level, int) else level
    single = isinstance(picture.image, Image.Image)
    panels = [Panel(picture.image)] if isinstance(picture.image, Image.Image) else list(picture.image)
    name = picture.name or (picture.file.name if picture.file else "")
    alt = ": ".join(part for part in (name, picture.caption) if part)
    drawn: dict[int, str] = {}
    encoded = [
        _encode_panel(panel, alt, f"{anchor}-{number}", drawn, levels, LARGEST_PICTURE if single else LARGEST_PANEL)
        for number, panel in enumerate(panels)
    ]
    objects = [shape for panel in panels if panel.truth for shape in panel.shapes if shape.counted]
    tallies = [
        {"run": panel.run, "title": panel.title, "text": _tally(panel, len(objects), levels[panel.run])}
        for panel in panels
        if panel.run >= 0 and not panel.truth
    ]
    return {
        "panels": encoded,
        "caption": picture.caption,
        "name": name,
        "link": _link(picture.file, folder) if picture.file else "",
        "alt": alt,
        "classes": " ".join(map(str, picture.classes)),
        "tallies": tallies,
    }


def is_dense(pictures: Sequence[Picture]) -> bool:
    """Whether there are outlines, and so many of them that boxes would cover the picture."""
    panels = [panel for picture in pictures if not isinstance(picture.image, Image.Image) for panel in picture.image]
    counts = [len(panel.shapes) for panel in panels if panel.truth and any(shape.path for shape in panel.shapes)]
    return bool(counts) and float(np.mean(counts)) > CROWD


def fine(score: float) -> int:
    """Returns a confidence as a whole number of ``FINE``, rounded down, but for what a float32 falls short of a level."""
    return math.floor(score * FINE + 1e-3)


def data_address(image: Image.Image, largest: int = LARGEST_PICTURE) -> tuple[str, tuple[int, int]]:
    """Returns a picture as a data address, PNG where its colours are few, as in drawings, else JPEG; and its size there."""
    image = image.convert("RGB")
    if max(image.size) > largest:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if image.getcolors(256):
        kind = "png"
        image.save(buffer, "PNG", optimize=True)
    elif largest == LARGEST_PANEL:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=80, optimize=True)
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=88, subsampling=0, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", image.size


def _encode_panel(
    panel: Panel, alt: str, anchor: str, drawn: dict[int, str], levels: Sequence[int], largest: int
) -> dict[str, Any]:
    """``drawn``: the ids of pictures that stand in an earlier panel."""
    title = ", ".join(part for part in (panel.title, alt) if part)
    if not panel.shapes and not panel.truth and panel.run < 0:
        source, (width, height) = data_address(panel.image, largest)
        return {"title": panel.title, "source": source, "width": width, "height": height, "alt": title}
    width, height = panel.image.size
    if id(panel.image) in drawn:
        picture = Markup('<use href="#{}"/>').format(drawn[id(panel.image)])
    else:
        drawn[id(panel.image)] = anchor
        address, _ = data_address(panel.image, largest)
        picture = Markup('<image id="{}" href="{}" width="{}" height="{}" preserveAspectRatio="none"/>').format(
            anchor, address, width, height
        )
    level = levels[panel.run] * FINE // 100 if panel.run >= 0 else 0
    return {
        "title": panel.title,
        "svg": picture + _shapes(panel, level),
        "width": width,
        "height": height,
        "letters": f"{max(panel.image.size) / LETTERS:.3g}",
        "alt": title,
        "truth": panel.truth,
        "run": panel.run,
    }


def _shapes(panel: Panel, level: int) -> Markup:
    boxes = np.array([shape.box for shape in panel.shapes], np.float64).reshape(-1, 4)
    size = max(panel.image.size) / LETTERS
    lettering = Lettering(MEASURED)
    sizes: list[Place | None] = [
        (lettering.length(shown(shape.name)) * size / MEASURED + size / 2, 1.3 * size) if shape.name else None
        for shape in panel.shapes
    ]
    surer = sum(fine(shape.score or 0) >= level for shape in panel.shapes)
    places = place_tags(boxes, sizes, panel.image.size, len(boxes) if panel.truth else surer)
    marked = [_shape(shape, place, panel, level, size) for shape, place in zip(panel.shapes, places, strict=True)]
    return Markup("").join(marked)


def _shape(shape: Shape, place: Place | None, panel: Panel, level: int, size: float) -> Markup:
    left, top, right, bottom = shape.box
    reached = shape.score is not None and fine(shape.score) >= level
    small = math.sqrt(max(right - left, 0) * max(bottom - top, 0)) < THIN * max(panel.image.size)
    lacking = (panel.run >= 0 and shape.counted and not reached) if panel.truth else not shape.right
    hidden = not panel.truth and panel.run >= 0 and not reached
    kinds = [name for name, said in (("thin", small), ("lacking", lacking), ("off", hidden)) if said]
    what = shown(shape.name) + (
        "" if panel.truth or not shape.counted or panel.run < 0 else " right" if shape.right else " wrong"
    )
    parts = [Markup("<title>{}</title>").format(what)]
    if shape.path:
        parts.append(Markup('<path d="{}"/>').format(shape.path))
    parts.append(
        Markup('<rect x="{:.4g}" y="{:.4g}" width="{:.4g}" height="{:.4g}"/>').format(
            left, top, max(right - left, 0.5), max(bottom - top, 0.5)
        )
    )
    if place is not None:
        parts.append(
            Markup('<text x="{:.4g}" y="{:.4g}">{}</text>').format(
                place[0] + size / 4, place[1] + size, shown(shape.name)
            )
        )
    score = "" if shape.score is None else Markup(' data-s="{}"').format(fine(shape.score))
    verdict = (
        "" if shape.counted and shape.right else Markup(' data-v="{}"').format("wrong" if shape.counted else "neither")
    )
    head = Markup('<g class="{}" data-c="{}"{}{} style="--c:#{}">').format(
        " ".join(kinds), shape.label, score, verdict, "{:02x}{:02x}{:02x}".format(*shape.color)
    )
    return head + Markup("").join(parts) + Markup("</g>")


def _tally(panel: Panel, objects: int, level: int) -> str:
    seen = [shape for shape in panel.shapes if shape.counted and fine(shape.score or 0) >= level * FINE // 100]
    right = sum(shape.right for shape in seen)
    return tally(right, objects - right, len(seen) - right)


def _link(file: Path, folder: Path) -> str:
    """Returns the address of a file from a page in ``folder``, relative where there is a way."""
    try:
        return urllib.parse.quote(Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix())
    except ValueError:  # on another drive
        return file.resolve().as_uri()
