"""The ConvMAE encoder, once, for every use."""

from convmae.backbones.convvit import SIZES, ConvViT, Dims

__all__ = ["SIZES", "ConvViT", "Dims"]
