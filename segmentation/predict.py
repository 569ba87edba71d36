"""A trained segmenter on any pictures."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.machine.precision import autocast, set_up
from convmae.engine.pictures.images import Picture, to_tensor
from convmae.reports.drawing import palette
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.class_list import read_classes
from convmae.segmentation.model.upernet import build_model, check_options
from convmae.segmentation.model.weights import load_weights, read_class_names


class Predictor:
    """Calls a segmenter on one picture after the other, of any size, as an evaluation does."""

    def __init__(self, config: SegmentationConfig, checkpoint: Path) -> None:
        """Raises UserError for weights that don't fill the model, or name no classes where the recipe has no list either."""
        check_options(config, training=False)
        self.device, self.dtype = set_up(config.runtime)
        self.first = 1 if config.data.reduce_zero_label else 0  # the number of the first class in the data's label maps
        self.classes = read_class_names(checkpoint) or _listed(config, checkpoint)
        self.colours = palette(len(self.classes))
        self.model = build_model(config, len(self.classes))
        load_weights(self.model, checkpoint, self.classes)
        self.model.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, image: Picture) -> NDArray[np.uint8]:
        """Returns the class of each pixel of a picture, counted from 0, [H, W]."""
        with autocast(self.device, self.dtype):
            (sample,) = self.model.test_step({"inputs": [to_tensor(image)]})
        labels: NDArray[np.uint8] = sample.pred_sem_seg.data[0].to(torch.uint8).cpu().numpy()
        return labels

    def label_map(self, labels: NDArray[np.uint8]) -> Image.Image:
        """Returns labels as the data's label maps number them (from 1 where 0 means other), with a palette of the colours."""
        image = Image.fromarray(labels + np.uint8(self.first))
        image.putpalette([0, 0, 0] * self.first + [part for colour in self.colours for part in colour])
        return image


def _listed(config: SegmentationConfig, checkpoint: Path) -> list[str]:
    try:
        return read_classes(config.data)
    except UserError as error:
        raise UserError(f"{checkpoint} does not name its classes. {error}") from None
