"""Pictures of results: image, truth and predictions side by side."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convmae.engine.pictures.images import as_rgb, read_image
from convmae.reports.drawing import draw_labels, enlarge, palette, row
from convmae.reports.page import Page, Picture
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.layout import IGNORE, Pair, read_label


class Shown(NamedTuple):
    """A picture to be drawn, what is said of it, and label maps [H, W] of predictions by the name of who made them."""

    pair: Pair
    caption: str
    predictions: Mapping[str, NDArray[np.uint8]]


def add_pictures(
    page: Page,
    title: str,
    shown: Sequence[Shown],
    classes: Sequence[str],
    options: SegmentationDataOptions,
    caption: str = "",
    columns: int = 1,
    channels: int = 3,
) -> None:
    """Adds pictures with their truth and predictions, and a legend of the classes that they hold."""
    colours, held, pictures = palette(len(classes)), set[int](), []
    for pair, text, predictions in shown:
        truth = read_label(pair.label, len(classes), options.reduce_zero_label, options.max_pixels)
        held.update(np.unique(np.concatenate([truth.ravel(), *map(np.ravel, predictions.values())])).tolist())
        image = as_rgb(read_image(pair.image, options.reading(channels)))
        pictures.append(Picture(_draw(image, {"ground truth": truth, **predictions}, colours), text))
    legend = [(classes[label], colours[label]) for label in sorted(held - {IGNORE})]
    page.pictures(title, pictures, caption, columns=columns, legend=legend)


def _draw(
    image: Image.Image, label_maps: Mapping[str, NDArray], colours: Sequence[tuple[int, int, int]]
) -> Image.Image:
    panels = [enlarge(image)[0], *(draw_labels(image, labels, colours) for labels in label_maps.values())]
    return row(panels, ["image", *label_maps])
