"""Features that tell how good an encoder is: the mean of its tokens for each picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from convmae.engine.machine.precision import autocast


class Features(NamedTuple):
    """The last stage's tokens of each picture, averaged: ``values`` [N, C]; ``labels`` [N]; ``contents`` [N], of its pixels.

    Two pictures of which the encoder saw the same pixels have the same number in ``contents``.
    """

    values: Tensor
    labels: Tensor
    contents: Tensor


@torch.no_grad()
def mean_tokens(
    encode: Callable[[Tensor], Tensor],
    batches: Iterable[Mapping[str, Tensor]],
    device: torch.device,
    dtype: torch.dtype | None,
) -> Features:
    """Returns the features of the pictures that a loader over an ``EvalSet`` gives, in fp32, on the CPU.

    ``encode`` gives the last stage's tokens [B, L, C] of bytes [B, in_chans, H, W].
    """
    values, labels, contents = [], [], []
    for batch in batches:
        with autocast(device, dtype):
            tokens = encode(batch["images"].to(device, non_blocking=True))
        values.append(tokens.float().mean(1))
        labels.append(batch["labels"])
        contents += [_content(image) for image in batch["images"]]
    return Features(torch.cat(values).cpu(), torch.cat(labels), torch.tensor(contents))


def _content(image: Tensor) -> int:
    """Returns a number of 64 bits, with a sign, that follows from a picture's bytes."""
    digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
