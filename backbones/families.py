"""Which of the two kinds of encoder weights belong to."""

from __future__ import annotations

from pathlib import Path

from convmae.backbones.convvit import ConvViT
from convmae.backbones.encoder import Classifier
from convmae.backbones.vit import ViT
from convmae.backbones.weight_files import read_weights

FAMILIES: dict[str, type[Classifier]] = {"convvit": ConvViT, "vit": ViT}


def family_of(path: str | Path) -> str:
    """Returns the name in `FAMILIES` of a weight file's encoder: "vit" by a plain ViT's patch embedding, else "convvit".

    Raises:
        CheckpointError: a file that can't be read.
    """
    names = read_weights(path)[0]
    plain = any(name == ViT.first_weight or name.endswith(f".{ViT.first_weight}") for name in names)
    return "vit" if plain else "convvit"
