"""Run lengths equal pycocotools', letter by letter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api
from torch import Tensor

from convmae.benchmarks.counting.host_waits import host_waits
from convmae.detection.data import rle


def theirs(masks: Tensor) -> list[dict]:
    found = mask_api.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))
    return [{"size": list(one["size"]), "counts": one["counts"].decode()} for one in found]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.tuples(*[st.integers(1, high) for high in (5, 40, 40)]),
    st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]),
    st.integers(0, 99),
)
def test_random_masks(shape: tuple[int, int, int], share: float, seed: int) -> None:
    masks = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share
    assert rle.encode(masks) == theirs(masks)


@pytest.mark.parametrize("shape", [(1500, 1200), (1, 70_000), (70_000, 1)])
def test_long_runs(shape: tuple[int, int]) -> None:
    masks = torch.zeros(4, *shape, dtype=torch.bool)
    masks[1] = True
    masks[2].view(-1)[:5] = True
    masks[3].view(-1)[40_000:66_000] = True
    assert rle.encode(masks) == theirs(masks)


def test_no_masks() -> None:
    assert rle.encode(torch.zeros(0, 5, 6, dtype=torch.bool)) == []


def test_of_a_gpu_only_the_edges_are_copied() -> None:
    masks = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0)) < 0.1
    found: list[list[dict]] = []
    waits = host_waits(lambda: found.append(rle.encode(masks)), masks)
    assert [wait.op for wait in waits] == ["aten::nonzero", "cpu"]
    assert found[0] == theirs(masks)
