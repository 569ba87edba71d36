"""Mask R-CNN as mmengine's runner wants it: pixels in, losses or detections in the picture's own pixels out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor

from convmae.backbones import CheckpointError
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import Category
from convmae.detection.data.dataset import Sample
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.detection.model.restore import restore
from convmae.detection.model.roi_heads import Detections
from convmae.detection.model.views import detect_in_views, views_of
from convmae.engine.class_lists import MOST, class_difference
from convmae.engine.pictures.images import normalize

_COARSEST = 32  # the coarsest stride of the encoder's maps, to which pictures are padded


class DetectionModel(BaseModel):
    """``model`` is the network; the class list is saved with its weights, as bytes of JSON."""

    def __init__(self, config: DetectionConfig, categories: Sequence[Category]) -> None:
        super().__init__(BaseDataPreprocessor(non_blocking=True))  # the loader pins its batches
        self.categories = list(categories)
        self.dataset_meta = {"classes": [category.name for category in self.categories]}
        self.flip, self.square = config.inference.flip, config.inference.square
        self.model = MaskRCNN(
            config.model, len(self.categories), config.data.img_size, config.runtime.checkpoint_activations
        )

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        samples: list[Sample] | None = None,
        mode: str = "loss",
    ) -> Any:
        """Returns the losses (``mode="loss"``) or, for each picture, its detections (``mode="predict"``).

        images: uint8 [B, in_chans, H, W], for detections also one of each size that the pictures are looked at in. A detection
        dict holds image_id, boxes [n, 4] (left, top, right, bottom) and masks (compressed RLE) in the picture's pixels, scores
        [n], and labels [n] into ``categories``. With ``mode="defer"`` there is a call in its place that returns it, in any
        thread, and any number of threads at a time.
        """
        squares = [images] if isinstance(images, Tensor) else images
        if mode == "loss":
            return self.model(normalize(squares[0]), targets)[1]
        if mode not in ("predict", "defer") or samples is None:
            raise ValueError(f"mode is {mode!r}; expected loss with targets, or predict or defer with samples")
        found = list(zip(self._detect(squares, samples), samples, strict=True))
        if mode == "predict":
            return [restore(*one) for one in found]
        device = squares[0].device
        ready = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        return [partial(restore, *one, ready) for one in found]

    def _detect(self, squares: Sequence[Tensor], samples: Sequence[Sample]) -> list[Detections]:
        """Returns each picture's detections in the pixels of its first square."""
        sizes = [
            [geometry.content for geometry in alike] for alike in zip(*(s.geometries for s in samples), strict=True)
        ]
        if len(squares) == 1 and not self.flip:
            (whole,) = squares
            if self.square:
                return self.model(normalize(whole), sizes=sizes[0])[0]
            height, width = (max(sides) for sides in zip(*map(trimmed, sizes[0]), strict=True))
            frame = (whole.shape[-2], whole.shape[-1])
            return self.model(normalize(whole[..., :height, :width]), sizes=sizes[0], frame=frame)[0]
        views = (
            view
            for images, inside in zip(squares, sizes, strict=True)
            for view in views_of(normalize(images), inside, self.flip)
        )
        return detect_in_views(self.model, views)

    def val_step(self, data: dict[str, Any]) -> list[Callable[[], dict[str, Any]]]:
        """Returns for each picture of a batch a call that gives its detections, for ``CocoMetric``'s threads."""
        deferred: list[Callable[[], dict[str, Any]]] = self(**self.data_preprocessor(data, False), mode="defer")
        return deferred

    def get_extra_state(self) -> Tensor:
        """Returns the class list as bytes, so that weights say what they were trained on."""
        text = json.dumps([[category.id, category.name] for category in self.categories])
        return torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the class list from a checkpoint. Raises ValueError if it isn't this model's; ids in a file may be others."""
        known = [category.name for category in read_categories(state)]
        difference = class_difference(known, self.dataset_meta["classes"], "the data")
        if difference:
            raise ValueError(f"it {difference}")


def trimmed(content: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of what stays of a square, whose top left a picture covers, without needless padding."""
    height, width = (side + -side % _COARSEST for side in content)
    return height, width


def read_categories(state: object) -> list[Category]:
    """Returns the class list from its bytes in a checkpoint. Raises CheckpointError for what is no class list."""
    if not isinstance(state, Tensor) or state.is_meta or state.dtype != torch.uint8 or state.ndim != 1:
        raise CheckpointError("its class list (_extra_state) is not what a detector's file has; expected bytes")
    try:
        listed = json.loads(state.cpu().contiguous().numpy().tobytes().decode("utf-8"))
    except (ValueError, RecursionError):
        raise CheckpointError("its class list (_extra_state) can't be read; expected ids and names as JSON") from None
    known = isinstance(listed, list) and all(
        isinstance(one, list) and list(map(type, one)) == [int, str] for one in listed
    )
    if not known or not 0 < len(listed) <= MOST:
        raise CheckpointError(
            f"its class list (_extra_state) is none; expected ids and names, of {MOST:,} classes at most"
        )
    return [Category(number, name) for number, name in listed]
