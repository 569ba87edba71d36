"""Pictures of a result: image, truth and prediction side by side."""

from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image

from convmae.engine.drawing import draw_labels, enlarge, palette, row
from convmae.engine.images import read_image
from convmae.engine.precision import autocast
from convmae.segmentation.data import SegmentationDataset
from convmae.segmentation.layout import IGNORE
from convmae.segmentation.model import UPerNet


class Shown(NamedTuple):
    """A drawn picture: its caption and the classes that its truth and prediction hold."""

    image: Image.Image
    caption: str
    classes: set[int]


def spread(accuracies: dict[str, float], count: int) -> list[str]:
    """Returns ``count`` paths evenly spread over the order of accuracy, worst and best included."""
    ordered = sorted(accuracies, key=lambda path: (accuracies[path], path))
    chosen = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[index] for index in dict.fromkeys(chosen.tolist())]


@torch.no_grad()
def predict(
    model: UPerNet, dataset: SegmentationDataset, index: int, device: torch.device, dtype: torch.dtype | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns truth and prediction of a picture, integers [H, W]."""
    model.eval().to(device)
    with autocast(device, dtype):
        (sample,) = model.test_step(pseudo_collate([dataset[index]]))
    return sample.gt_sem_seg.data[0].cpu().numpy(), sample.pred_sem_seg.data[0].cpu().numpy()


def draw(path: str, truth: np.ndarray, prediction: np.ndarray, classes: int, accuracy: float) -> Shown:
    """Draws image, truth and prediction in a row; ignored pixels of the truth are grey."""
    image, colours = read_image(path), palette(classes)
    panels = [enlarge(image)[0], draw_labels(image, truth, colours), draw_labels(image, prediction, colours)]
    held = {int(label) for array in (truth, prediction) for label in np.unique(array) if label != IGNORE}
    caption = f"{path.replace(chr(92), '/').rsplit('/', 1)[-1]}: {100 * accuracy:.1f} % of labelled pixels right"
    return Shown(row(panels, ["image", "ground truth", "prediction"]), caption, held)
