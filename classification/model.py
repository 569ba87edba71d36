"""The classifier as mmengine's runner wants it: bytes in, loss or predictions out."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor

from convmae.backbones import Classifier
from convmae.classification.data.erasing import erase
from convmae.classification.data.mixing import mix as mix_neighbours
from convmae.classification.evaluation.accuracy import Prediction
from convmae.engine.pictures.images import normalize


class ClassificationModel(BaseModel):
    """An encoder's classifier with label smoothing and mixing in its loss."""

    def __init__(self, model: Classifier, smoothing: float) -> None:
        super().__init__(BaseDataPreprocessor(non_blocking=True))  # the loader pins its batches
        self.model, self.smoothing = model, smoothing

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        mix: Tensor | None = None,
        erased: dict[str, Any] | None = None,
        index: Tensor | None = None,
        mode: str = "loss",
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Returns ``{"loss": []}`` or, for ``mode="predict"``, one prediction a picture.

        images: bytes [B, C, S, S]; labels: [B]; mix: [B, 4] from ``mixing.draw_mix``; erased: of ``erasing.collate``; index:
        [B], places in the split.
        """
        images = normalize(images)
        if mode == "loss":
            classes = self.model.num_classes
            chosen = images.new_zeros(len(labels), classes).scatter_(1, labels[:, None], 1.0)
            targets = chosen * (1 - self.smoothing) + self.smoothing / classes
            if erased is not None:
                erase(images, **erased)
            if mix is not None:
                images, targets = mix_neighbours(images, targets, mix)
            return {"loss": F.cross_entropy(self.model(images).float(), targets)}
        if mode != "predict" or index is None:
            raise ValueError(f"mode is {mode!r}; expected loss, or predict with each picture's index")
        return [found._asdict() for found in Prediction.of(self.model(images).float().softmax(1), labels, index)]
