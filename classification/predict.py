"""A trained classifier on any pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convmae.backbones import load_checkpoint
from convmae.backbones.weights.weight_files import read_weights
from convmae.classification.config import FinetuningConfig
from convmae.classification.train import build_model
from convmae.engine.class_lists import known_classes
from convmae.engine.errors import UserError
from convmae.engine.files import read_meta
from convmae.engine.log import log
from convmae.engine.machine.compilation import check_compiler, compile_methods
from convmae.engine.machine.precision import autocast, set_up
from convmae.engine.pictures.images import Picture, normalize, to_tensor
from convmae.engine.pictures.limits import own_limits
from convmae.engine.probes.splits import centre_crop
from convmae.engine.whole_weights import check_filled


class Predictor:
    """Calls a classifier on the centre crops of pictures of any sizes, as an evaluation does, in any thread."""

    def __init__(self, config: FinetuningConfig, checkpoint: Path) -> None:
        """Raises UserError for weights that don't fill the model."""
        self.device, self.dtype = set_up(config.runtime)
        self.reading = config.data.reading(config.model.in_chans)
        state, source = read_weights(checkpoint)
        self.classes = _class_names(state, source, checkpoint)
        self.transform = centre_crop(config.model.img_size, config.data.test_crop)
        self.model = build_model(config, len(self.classes))
        report = load_checkpoint(self.model, state, source=source)
        check_filled(report, checkpoint, len(self.classes), "head.")
        log.info(str(report))
        self.model.eval().to(self.device)
        if config.runtime.compile:
            check_compiler(self.device)
            compile_methods([self.model.forward], config.runtime.compile_mode, always=True)
        self._one_at_a_time = Lock()

    @torch.inference_mode()
    def __call__(self, images: Sequence[Picture]) -> list[NDArray[np.float32]]:
        """Returns the probability of each class for each picture, [classes]."""
        with own_limits():  # Pillow's are for crops, too
            squares = torch.stack([to_tensor(self.transform(image)) for image in images])
        with self._one_at_a_time, autocast(self.device, self.dtype):
            logits = self.model(normalize(squares.to(self.device)))
            return list(logits.float().softmax(1).cpu().numpy())


def _class_names(state: Mapping[str, Any], source: str, checkpoint: Path) -> list[str]:
    """Returns what the classes in a classifier's weights are called: by name, by folder, or where these are absent by number.

    Raises UserError for weights without a classifier.
    """
    bias = state.get("head.bias")
    if bias is None or getattr(bias, "ndim", 0) != 1:
        raise UserError(f"{source} has no classifier (head.bias); expected the weights of a fine-tuning run.")
    meta = read_meta(checkpoint)
    names = [str(name) for name in (meta.get("dataset_meta") or {}).get("classes") or known_classes(meta)]
    if names and len(names) != len(bias):
        raise UserError(f"{source} lists {len(names)} classes and classifies {len(bias)}; expected as many names.")
    return names or [str(number) for number in range(len(bias))]
