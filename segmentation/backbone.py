"""ConvViTSeg and its layer-wise decay for mmseg configs, by ``custom_imports`` of this module; see docs/mmsegmentation.md."""

from __future__ import annotations

from typing import Any

from convmae import backbones
from convmae.engine.training.optim import ConvMAEOptimWrapperConstructor
from convmae.engine.whole_weights import start_backbone
from convmae.segmentation.mmseg_parts import MODELS

__all__ = ["ConvMAEOptimWrapperConstructor", "ConvViTSeg"]


@MODELS.register_module()
class ConvViTSeg(backbones.ConvViTSeg):
    """The encoder for segmentation as an mmseg backbone.

    It takes the arguments of `convmae.backbones.ConvViTSeg`; `init`: pretrained weights of any known layout, fitted to its
    grid; and `freeze`: what of it stays as these have it, "none", "stem" or "encoder". What became of each of their names is
    logged. Raises UserError for a file that leaves some of the encoder unfilled, and for freezing without weights.
    """

    def __init__(self, *args: Any, init: str = "", freeze: str = "none", **options: Any) -> None:
        super().__init__(*args, **options)
        start_backbone(self, init, freeze)
