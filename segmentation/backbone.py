"""ConvViTSeg under mmseg's registry, so that ``custom_imports`` of this module serves a user's own mmseg config too."""

from convmae.backbones import ConvViTSeg
from convmae.segmentation.mmseg_parts import MODELS

MODELS.register_module(name="ConvViTSeg", module=ConvViTSeg)
