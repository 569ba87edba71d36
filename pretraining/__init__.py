"""Masked pretraining: ConvMAE and FastConvMAE as plain modules, and what runs them."""

from convmae.pretraining.convmae import ConvMAE, Reconstruction
from convmae.pretraining.fastconvmae import FastConvMAE

__all__ = ["ConvMAE", "FastConvMAE", "Reconstruction"]
