"""ConvViTDet for detectron2, which has to be installed: see docs/detectron2.md."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor

from convmae import backbones
from convmae.detection.data.transforms import GREY
from convmae.engine.whole_weights import start_backbone

FEATURES = ("E1", "E2", "E3", "E4")


class ConvViTDet(backbones.ConvViTDet, Backbone):
    """The encoder for detection as a detectron2 backbone: its maps go by the names E1, E2, E3 and E4.

    It takes the arguments of `convmae.backbones.ConvViTDet`, by name; `init`: pretrained weights of any known layout, fitted
    to its grid and windows; and `freeze`: what of it stays as these have it, "none", "stem" or "encoder". What became of each
    of their names is logged.
    Raises UserError for a file that leaves some of the encoder unfilled, and for freezing without weights.
    """

    def __init__(self, *, img_size: int = 1024, init: str = "", freeze: str = "none", **options: Any) -> None:
        super().__init__(img_size=img_size, **options)
        self.img_size = img_size
        start_backbone(self, init, freeze, logging.getLogger("detectron2"))

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # detectron2 wants them by name
        """Returns E1..E4 by name of normalised images [B, 3, H, W], each [B, C, H / s, W / s] at strides s = 4, 8, 16, 32."""
        return dict(zip(FEATURES, super().forward(images), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Returns channels and stride of each map."""
        return {
            name: ShapeSpec(channels=channels, stride=stride)
            for name, channels, stride in zip(FEATURES, self.out_channels, self.strides, strict=True)
        }

    @property
    def size_divisibility(self) -> int:
        """Pixels that height and width must be a multiple of, so that a pyramid's levels fit each other."""
        return self.strides[-1]

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The square that pictures are padded to: that of `img_size`. A pyramid around this has a `square_pad` of its own."""
        return {"square_size": self.img_size}


class GreyPaddedRCNN(GeneralizedRCNN):
    """GeneralizedRCNN that pads with grey before it normalises, as the published detector's pictures are; it pads after."""

    def preprocess_image(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """Returns the normalised images as one batch, with the size of each inside its padding."""
        images = ImageList.from_tensors(
            [found["image"].to(self.device).float() for found in batched_inputs],
            self.backbone.size_divisibility,
            pad_value=GREY,
            padding_constraints=self.backbone.padding_constraints,
        )
        return ImageList((images.tensor - self.pixel_mean) / self.pixel_std, images.image_sizes)
