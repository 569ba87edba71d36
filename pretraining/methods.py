"""The masked autoencoders by their names in recipes."""

from convmae.pretraining.autoencoder import MaskedAutoencoder, Reconstruction
from convmae.pretraining.convmae import ConvMAE
from convmae.pretraining.fastconvmae import FastConvMAE
from convmae.pretraining.mae import MAE

METHODS: dict[str, type[MaskedAutoencoder]] = {"convmae": ConvMAE, "fastconvmae": FastConvMAE, "mae": MAE}

__all__ = ["MAE", "METHODS", "ConvMAE", "FastConvMAE", "MaskedAutoencoder", "Reconstruction"]
