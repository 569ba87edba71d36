"""The ConvMAE encoder, once, for every use, and its weights in and out."""

from convmae.backbones.checkpoint import load_checkpoint
from convmae.backbones.convvit import SIZES, ConvViT, ConvViTEncoder, Dims
from convmae.backbones.convvitseg import ConvViTSeg
from convmae.backbones.vitdet import ConvViTDet
from convmae.backbones.weight_files import CheckpointError

__all__ = [
    "SIZES",
    "CheckpointError",
    "ConvViT",
    "ConvViTDet",
    "ConvViTEncoder",
    "ConvViTSeg",
    "Dims",
    "load_checkpoint",
]
