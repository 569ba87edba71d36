"""A trained segmenter on any pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from convmae.engine.errors import UserError
from convmae.engine.machine.compilation import check_compiler, compile_methods
from convmae.engine.machine.precision import autocast, set_up
from convmae.engine.pictures.images import Picture, to_tensor
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.class_list import read_classes
from convmae.segmentation.model.upernet import build_model, check_options
from convmae.segmentation.model.weights import load_weights, read_class_names


class Predictor:
    """Calls a segmenter on pictures of any sizes, as an evaluation does, in any thread."""

    def __init__(self, config: SegmentationConfig, checkpoint: Path) -> None:
        """Raises UserError for weights that don't fill the model, or name no classes where the recipe has no list either."""
        check_options(config, training=False)
        self.device, self.dtype = set_up(config.runtime)
        self.reading = config.data.reading(config.model.in_chans)
        self.first = 1 if config.data.reduce_zero_label else 0  # the number of the first class in the data's label maps
        self.classes = read_class_names(checkpoint) or _listed(config, checkpoint)
        self.model = build_model(config, len(self.classes))
        load_weights(self.model, checkpoint, self.classes)
        self.model.eval().to(self.device)
        if config.runtime.compile:
            check_compiler(self.device)
            compile_methods([self.model.backbone.forward_pyramid], config.runtime.compile_mode, always=True)
        self._one_at_a_time = Lock()

    @torch.inference_mode()
    def __call__(self, images: Sequence[Picture]) -> list[NDArray[np.uint8]]:
        """Returns the class of each pixel of each picture, counted from 0, [H, W]."""
        inputs = [to_tensor(image) for image in images]
        with self._one_at_a_time, autocast(self.device, self.dtype):
            samples = self.model.val_step({"inputs": inputs})
            return [sample.pred_sem_seg.data[0].to(torch.uint8).cpu().numpy() for sample in samples]

    @torch.inference_mode()
    def scores(self, images: Sequence[Picture]) -> list[NDArray[np.float32]]:
        """Returns the probability of each class at each pixel of each picture, [classes, H, W]."""
        scored: list[NDArray[np.float32]] = []
        for image in images:  # one at a time: of 150 classes in 12 megapixels it is 7 GB
            with self._one_at_a_time, autocast(self.device, self.dtype):
                (found,) = self.model.probabilities([to_tensor(image)])
                scored.append(found.cpu().numpy())
        return scored


def _listed(config: SegmentationConfig, checkpoint: Path) -> list[str]:
    try:
        return read_classes(config.data)
    except UserError as error:
        raise UserError(f"{checkpoint} does not name its classes. {error}") from None
