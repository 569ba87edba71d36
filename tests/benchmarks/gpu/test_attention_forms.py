"""The forms of attention that are compared: all of them the same function."""

from __future__ import annotations

import math

import pytest
import torch

from convmae.benchmarks.gpu import attention
from convmae.benchmarks.gpu.attention_forms import (
    decomposed_forms,
    flex_forms,
    in_plain_windows,
    plain,
    plain_decomposed,
    shared_forms,
    windowed_forms,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("window", [None, (3, 2)])
def test_all_forms_are_the_same_attention(window: tuple[int, int] | None, decomposed: bool) -> None:
    torch.manual_seed(0)
    grid = (4, 5)
    kind = attention.Kind("some", 2, grid, window, decomposed)
    leaves = [x.detach().double() for x in kind.inputs(CPU)]
    forms = decomposed_forms(window) if decomposed else windowed_forms(window) if window else shared_forms(tiny=True)
    forms |= {} if window or decomposed else flex_forms(tiny=True)
    wanted = by_pairs(leaves, grid, window or grid, decomposed)
    compared = 0
    for name, form in forms.items():
        if name in ("SDPA, mask, efficient", "SDPA, mask, cuDNN", "SDPA, no positions"):
            continue
        torch.testing.assert_close(form(*leaves, grid), wanted, msg=name)
        compared += 1
    assert compared >= 3


def by_pairs(
    leaves: list[torch.Tensor], grid: tuple[int, int], window: tuple[int, int], decomposed: bool
) -> torch.Tensor:
    """The formula, one pair of tokens after the other."""
    query, key, value, *tables = leaves
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            if (row // window[0], column // window[1]) != (other_row // window[0], other_column // window[1]):
                scores[:, :, i, j] = -math.inf
                continue
            down, across = row - other_row + window[0] - 1, column - other_column + window[1] - 1
            if decomposed:
                scores[:, :, i, j] += query[:, :, i] @ (tables[0][down] + tables[1][across])
            else:
                scores[:, :, i, j] += tables[0][:, down, across]
    return scores.softmax(-1) @ value


def test_windows_of_the_whole_grid_are_the_grid() -> None:
    kind = attention.Kind("some", 2, (3, 4))
    leaves = [x.double() for x in kind.inputs(CPU)]
    torch.testing.assert_close(in_plain_windows((3, 4), plain, *leaves, (3, 4)), plain(*leaves, (3, 4)))


def test_plain_decomposed_positions_are_their_formula() -> None:
    kind = attention.Kind("some", 1, (2, 3), None, True)
    leaves = [x.double() for x in kind.inputs(CPU)]
    torch.testing.assert_close(plain_decomposed(*leaves, (2, 3)), by_pairs(leaves, (2, 3), (2, 3), True))
