"""The lean biased attention against the textbook formula, in double precision, gradients included."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones.attention.biased import (
    biased_attention,
    channel_attention,
    decomposed_attention,
    window_sizes,
    windowed_attention,
)
from convmae.backbones.layers import Attend
from convmae.backbones.position import bias_at_grid


def biases(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """[heads, queries, keys]: the entry for how far below and right of the key the query is."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    below, right = rows[:, None] - rows[None], columns[:, None] - columns[None]
    return table[:, below + grid[0] - 1, right + grid[1] - 1]


def plain(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + bias
    return scores.softmax(-1) @ value


def inputs(batch: int, heads: int, grid: tuple[int, int], offsets: tuple[int, int]) -> list[Tensor]:
    torch.manual_seed(0)
    tokens = [torch.randn(batch, heads, grid[0] * grid[1], 8, dtype=torch.double) for _ in range(3)]
    return [x.requires_grad_() for x in (*tokens, torch.randn(heads, *offsets, dtype=torch.double))]


def assert_same(ours: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(ours, expected)
    grad = torch.randn_like(expected)
    for mine, wanted in zip(
        torch.autograd.grad(ours, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("max_scores", [1, 3 * 5 * 35 * 2, 3 * 7 * 35 * 4, 2**24])
@pytest.mark.parametrize("grid", [(5, 7), (1, 1), (1, 6), (8, 1)])
def test_equals_the_formula_in_any_slices(grid: tuple[int, int], max_scores: int) -> None:
    query, key, value, table = leaves = inputs(2, 3, grid, (2 * grid[0] - 1, 2 * grid[1] - 1))
    expected = plain(query, key, value, biases(table, grid))
    assert_same(biased_attention(*leaves, grid, max_scores), expected, leaves)
    with torch.no_grad():
        torch.testing.assert_close(biased_attention(query, key, value, table, grid, max_scores), expected)


def decomposed_biases(query: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, heads, queries, keys]: the query times the entry of its rows below and that of its columns right of the key."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    below, right = (x.flatten()[:, None] - x.flatten() for x in (rows, columns))
    offsets = rel_pos_h[below + grid[0] - 1] + rel_pos_w[right + grid[1] - 1]  # [queries, keys, D]
    return torch.einsum("bhqd,qkd->bhqk", query, offsets)


@pytest.mark.parametrize("max_scores", [1, 2 * 3 * 4 * 12 * 2, 2**24])
@pytest.mark.parametrize("grid", [(3, 4), (1, 1), (1, 5), (4, 1)])
def test_decomposed_positions_equal_the_formula_in_any_slices(grid: tuple[int, int], max_scores: int) -> None:
    query, key, value, _ = leaves = inputs(2, 3, grid, (1, 1))
    rel_pos = [torch.randn(2 * side - 1, 8, dtype=torch.double, requires_grad=True) for side in grid]
    leaves = [*leaves[:3], *rel_pos]
    expected = plain(query, key, value, decomposed_biases(query, *rel_pos, grid))
    assert_same(decomposed_attention(*leaves, grid, max_scores), expected, leaves)
    with torch.no_grad():
        torch.testing.assert_close(decomposed_attention(*leaves, grid, max_scores), expected)


def padded_windows(
    tokens: list[Tensor], grid: tuple[int, int], window: tuple[int, int], bias: Callable[[Tensor], Tensor]
) -> Tensor:
    """Windows as usually made: the grid padded to whole ones, padded keys hidden by a score of minus infinity.

    `bias` gives that of a window's queries, [..., tokens, D], on its keys.
    """
    rows, columns = (-(-side // length) for side, length in zip(grid, window, strict=True))
    inside = torch.zeros(rows * window[0], columns * window[1], dtype=torch.bool)
    inside[: grid[0], : grid[1]] = True

    def cut(x: Tensor) -> Tensor:
        """[..., H, W] -> [windows, ..., tokens]"""
        x = x.unflatten(-1, (columns, window[1])).unflatten(-3, (rows, window[0]))
        return x.movedim((-4, -2), (0, 1)).flatten(0, 1).flatten(-2)

    def windows(x: Tensor) -> Tensor:
        canvas = torch.full((*x.shape[:2], 8, *inside.shape), 7.0, dtype=x.dtype)  # what is padded with must not matter
        canvas[..., : grid[0], : grid[1]] = x.unflatten(2, grid).permute(0, 1, 4, 2, 3)
        return cut(canvas).transpose(-1, -2)  # [windows, B, heads, tokens, D]

    query, key, value = (windows(x) for x in tokens)
    hidden = torch.zeros(inside.shape, dtype=torch.double).masked_fill(~inside, -torch.inf)
    attended = plain(query, key, value, bias(query) + cut(hidden)[:, None, None, None])
    attended = attended.unflatten(0, (rows, columns)).unflatten(4, window)  # [rows, columns, B, heads, h, w, D]
    whole = attended.permute(2, 3, 0, 4, 1, 5, 6).flatten(4, 5).flatten(2, 3)
    return whole[:, :, : grid[0], : grid[1]].flatten(2, 3)


@pytest.mark.parametrize("grid", [(6, 8), (7, 9), (5, 3), (2, 2), (9, 4)])
@pytest.mark.parametrize("window", [(3, 4), (4, 4), (1, 2)])
def test_windows_equal_padded_and_masked_ones(grid: tuple[int, int], window: tuple[int, int]) -> None:
    leaves = inputs(2, 2, grid, (2 * window[0] - 1, 2 * window[1] - 1))
    table = leaves[3].flatten(1).T

    def attend(size: tuple[int, int]) -> Attend:
        return lambda q, k, v: biased_attention(q, k, v, bias_at_grid(table, window, size), size)

    sizes = {size: attend(size) for size in window_sizes(grid, window)}
    expected = padded_windows(leaves[:3], grid, window, lambda _: biases(leaves[3], window))
    assert_same(windowed_attention(*leaves[:3], grid, window, sizes), expected, leaves)
    expected = padded_windows(leaves[:3], grid, window, lambda _: biases(leaves[3], window))
    assert_same(biased_attention(*leaves, grid, window=window), expected, leaves)


@pytest.mark.parametrize("attend", [decomposed_attention, channel_attention])
@pytest.mark.parametrize(("grid", "window"), [((7, 9), (3, 4)), ((4, 6), (2, 3)), ((2, 2), (3, 4)), ((9, 4), (4, 4))])
def test_windows_of_decomposed_positions_equal_padded_and_masked_ones(
    attend: Callable[..., Tensor], grid: tuple[int, int], window: tuple[int, int]
) -> None:
    leaves = inputs(2, 2, grid, (1, 1))[:3]
    leaves += [torch.randn(2 * side - 1, 8, dtype=torch.double, requires_grad=True) for side in window]

    def bias(query: Tensor) -> Tensor:
        return decomposed_biases(query.flatten(0, 1), *leaves[3:], window).unflatten(0, query.shape[:2])

    assert_same(attend(*leaves, grid, window=window), padded_windows(leaves[:3], grid, window, bias), leaves)


@pytest.mark.parametrize("grid", [(3, 4), (1, 1), (5, 2)])
def test_decomposed_positions_as_channels_equal_the_formula(grid: tuple[int, int]) -> None:
    query, key, value = leaves = inputs(2, 3, grid, (1, 1))[:3]
    leaves += [torch.randn(2 * side - 1, 8, dtype=torch.double, requires_grad=True) for side in grid]
    expected = plain(query, key, value, decomposed_biases(query, *leaves[3:], grid))
    assert_same(channel_attention(*leaves, grid), expected, leaves)


@pytest.mark.parametrize("deviation", [1, 4, 16])
@pytest.mark.parametrize("from_positions", [False, True])
@pytest.mark.parametrize("kind", ["shared", "decomposed", "channels"])
def test_gradients_in_bf16_are_off_by_twice_those_of_plain_attention_at_most(
    kind: str, from_positions: bool, deviation: float
) -> None:
    """With logits of that deviation, from the products of queries and keys or from positions, as against plain attention's."""
    torch.manual_seed(0)
    grid = (16, 16)
    query, key, value, grad = (torch.randn(1, 2, 256, 64).bfloat16() for _ in range(4))
    tables = [torch.randn(2, 31, 31)] if kind == "shared" else [torch.randn(31, 64) / 128**0.5 for _ in grid]
    large = (query * deviation).bfloat16()
    if from_positions:
        tables = [table * deviation for table in tables]
    else:
        query, tables = large, [table * 0 for table in tables]

    def gradients(attend: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in leaves]
        with torch.autocast("cpu", torch.bfloat16, enabled=leaves[0].dtype == torch.bfloat16):
            return list(torch.autograd.grad(attend(*leaves), leaves, grad.to(leaves[0].dtype)))

    def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
        return [float((x - y).norm() / y.norm()) for x, y in zip(found, exact, strict=True)]

    def textbook(query: Tensor, key: Tensor, value: Tensor, *tables: Tensor) -> Tensor:
        bias = biases(tables[0], grid) if kind == "shared" else decomposed_biases(query, *tables, grid)
        return plain(query, key, value, bias)

    attend = {"shared": biased_attention, "decomposed": decomposed_attention, "channels": channel_attention}[kind]
    ours = gradients(lambda *leaves: attend(*leaves, grid), [query, key, value, *tables])
    exact = gradients(textbook, [x.double() for x in (query, key, value, *tables)])
    usual = gradients(F.scaled_dot_product_attention, [large, key, value])
    limit = max(errors(usual, gradients(F.scaled_dot_product_attention, [x.double() for x in (large, key, value)])))
    assert max(errors(ours[:3], exact[:3])) <= 2 * limit
    if from_positions or kind == "shared":
        assert max(errors(ours[3:], exact[3:])) <= 2 * limit


@pytest.mark.parametrize("decomposed", [False, True])
def test_backward_keeps_no_table_of_all_pairs(decomposed: bool) -> None:
    grid, tokens = (24, 24), 24 * 24
    query, key, value, table = (x.detach().float().requires_grad_() for x in inputs(1, 2, grid, (47, 47)))
    rel_pos = [torch.randn(47, 8, requires_grad=True) for _ in grid]
    saved = []

    def note(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        if decomposed:
            decomposed_attention(query, key, value, *rel_pos, grid, max_scores=2 * 24 * tokens)
        else:
            biased_attention(query, key, value, table, grid, max_scores=2 * 24 * tokens)
    assert max(saved) < tokens * tokens / 8
