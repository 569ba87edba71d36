"""The outputs of the published code, and the weights and images that they belong to, made from names and seeds alone."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# These keep the values that the model gives them.
OWN_VALUES = ("relative_position_index", "num_batches_tracked", "decoder_pos_embed")


def read_reference(folder: Path, name: str) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    """Returns the public model's names with shapes, and its outputs with the seeds, from the folder of them (tests/data)."""
    keys = json.loads((folder / f"{name}.keys.json").read_text())
    with np.load(folder / f"{name}.npz") as outputs:
        return keys, dict(outputs)


def normal(name: str, shape: Sequence[int], weight_seed: int) -> Tensor:
    """Returns the standard normal tensor that belongs to a name."""
    seed = (zlib.crc32(name.encode()) + weight_seed) % 2**31
    return torch.randn(list(shape), generator=torch.Generator().manual_seed(seed))


def seeded_state(
    keys: Mapping[str, Sequence[int]], weight_seed: int, own_values: Sequence[str] = OWN_VALUES, prefix: str = ""
) -> dict[str, Tensor]:
    """Returns an encoder's seeded weights, without those whose name ends in one of `own_values`.

    Args:
        keys: names with shapes.
        weight_seed: the seed beside the reference outputs.
        own_values: endings of names that keep the model's values; a pretraining model's `pos_embed` is one more.
        prefix: only names under it, which is taken off the result's names (the seed is made from the whole name).
    """
    state = {}
    for name, shape in keys.items():
        if name.endswith(tuple(own_values)) or not name.startswith(prefix):
            continue
        if name.endswith("running_var"):
            value = torch.ones(list(shape))
        else:
            scale = 0.5 if name.endswith("relative_position_bias_table") else 0.02
            value = normal(name, shape, weight_seed) * scale
            is_norm = name.endswith("weight") and "norm" in name and "patch_embed" not in name
            if is_norm or name.endswith(("gamma_1", "gamma_2")):
                value = value + 1
        state[name.removeprefix(prefix)] = value
    return state


def seeded_model(
    keys: Mapping[str, Sequence[int]], weight_seed: int, encoder: str, gains: Mapping[str, float]
) -> dict[str, Tensor]:
    """Returns a detector's or segmenter's seeded weights, without `OWN_VALUES`.

    Args:
        keys: names with shapes.
        weight_seed: the seed beside the reference outputs.
        encoder: how the encoder's names begin.
        gains: of the layers that give the output, by name; they are scaled by the root of a unit's inputs, others of twice it.
    """
    state = {encoder + name: value for name, value in seeded_state(keys, weight_seed, prefix=encoder).items()}
    for name, shape in keys.items():
        if name.startswith(encoder) or name.endswith(OWN_VALUES):
            continue
        t = normal(name, shape, weight_seed)
        if name.endswith("running_var"):
            state[name] = torch.ones(list(shape))
        elif len(shape) == 1:
            state[name] = 1 + 0.1 * t if name.endswith("weight") else 0.1 * t
        else:
            gain = gains.get(name.split(".")[-2], 2**0.5)
            state[name] = t * gain * float(np.prod(shape[1:])) ** -0.5
    return state


def image(seed: int, batch: int, height: int, width: int | None = None) -> Tensor:
    """Returns the seeded input, [batch, 3, height, width], already normalised."""
    generator = torch.Generator().manual_seed(int(seed))
    return torch.randn(batch, 3, height, width or height, generator=generator)


def difference(output: Tensor, expected: np.ndarray) -> tuple[float, float]:
    """Returns the largest difference, and the one that may be expected in fp32: 1e-5 * max(1, max|reference|)."""
    wanted = torch.from_numpy(expected)
    return (output - wanted).abs().max().item(), 1e-5 * max(1.0, wanted.abs().max().item())
