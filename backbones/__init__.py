"""The ConvMAE encoder, once, for every use, and its weights in and out."""

import convmae.backbones.timm_models  # noqa: F401  # registers convvit_tiny to convvit_huge with timm
from convmae.backbones.convvit import SIZES, ConvViT, ConvViTEncoder, Dims
from convmae.backbones.convvitseg import ConvViTSeg
from convmae.backbones.encoder import Classifier
from convmae.backbones.families import FAMILIES, family_of, load_encoder
from convmae.backbones.vit import VIT_SIZES, ViT, ViTEncoder
from convmae.backbones.vitdet import ConvViTDet
from convmae.backbones.weights.checkpoint import load_checkpoint
from convmae.backbones.weights.weight_files import CheckpointError

__all__ = [
    "FAMILIES",
    "SIZES",
    "VIT_SIZES",
    "CheckpointError",
    "Classifier",
    "ConvViT",
    "ConvViTDet",
    "ConvViTEncoder",
    "ConvViTSeg",
    "Dims",
    "ViT",
    "ViTEncoder",
    "family_of",
    "load_checkpoint",
    "load_encoder",
]
