"""Pictures of results: image, truth and predictions side by side."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmae.engine.pictures.images import as_rgb, read_image
from convmae.reports.drawing import draw_labels, enlarge, palette
from convmae.reports.page import Page, Panel, Picture
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
    channels: int = 3,
    ranked: bool = False,
) -> None:
    """Adds pictures with their truth and predictions, and a legend of the classes that they hold.

    ``ranked``: from the worst to the best, so that a reader can turn them round.
    """
    colours, held, pictures = palette(len(classes)), set[int](), []
    for pair, text, predictions in shown:
        truth = read_label(pair.label, len(classes), options.reduce_zero_label, options.max_pixels)
        holds = set(np.unique(truth).tolist()) - {IGNORE}
        held.update(holds, *(np.unique(labels).tolist() for labels in predictions.values()))
        image = as_rgb(read_image(pair.image, options.reading(channels)))
        panels = [Panel(enlarge(image)[0], "image")]
        for name, labels in {"ground truth": truth, **predictions}.items():
            panels.append(Panel(draw_labels(image, labels, colours), name))
        pictures.append(Picture(panels, text, pair.image, classes=sorted(holds)))
    legend = [(classes[label], colours[label]) for label in sorted(held - {IGNORE})]
    page.pictures(title, pictures, caption, columns=2, legend=legend, classes=classes, ranked=ranked)
