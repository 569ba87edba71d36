"""Runs the fused kernels in Triton's interpreter, on a CPU, against the textbook formula; prints the errors as JSON.

A process of its own, as Triton decides when it is imported whether it interprets. The interpreter multiplies no bf16, so half
precision is fp16 here.
"""

import json
import sys
from itertools import product

import torch
from torch import Tensor

from convmae.backbones.attention import fused

fused.PROGRAMS = 8  # the interpreter runs one after the other


def attend(query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: list[int], window: list[int]) -> Tensor:
    """The formula, window by window."""
    output = torch.zeros_like(query)
    for top, left in product(range(0, grid[0], window[0]), range(0, grid[1], window[1])):
        rows = torch.arange(top, min(top + window[0], grid[0]))
        columns = torch.arange(left, min(left + window[1], grid[1]))
        token = (rows[:, None] * grid[1] + columns).flatten()
        row, column = token // grid[1], token % grid[1]
        below, right = row[:, None] - row, column[:, None] - column
        scores = query[:, :, token] @ key[:, :, token].transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = (scores + table[:, below + window[0] - 1, right + window[1] - 1]).softmax(-1)
        output = output.index_copy(2, token, weights @ value[:, :, token])
    return output


def errors(grid: list[int], window: list[int], width: int, dtype: torch.dtype, tiles: int) -> list[float]:
    """The relative errors of the output and of the gradients of queries, keys, values and table."""
    torch.manual_seed(0)
    qkv = torch.randn(2, grid[0] * grid[1], 3, 2, width).to(dtype)
    query, key, value = (x.transpose(1, 2) for x in qkv.unbind(2))  # strided, as they come
    table = torch.randn(2, 2 * window[0] - 1, 2 * window[1] - 1)
    leaves = [x.detach().requires_grad_() for x in (query, key, value, table)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    size = fused.Tiles(tiles, tiles, 4, 1)
    fused.TILES = fused.TILES_FP32 = dict.fromkeys(fused.TILES, size)
    grad = torch.randn(query.shape).to(dtype)
    ours = fused.fused_attention(*leaves, grid, window)
    wanted = attend(*exact, grid, window)
    pairs = [(ours, wanted)]
    pairs += zip(
        torch.autograd.grad(ours, leaves, grad), torch.autograd.grad(wanted, exact, grad.double()), strict=True
    )
    return [float((x.detach() - y.detach()).norm() / y.detach().norm()) for x, y in pairs]


def main() -> None:
    """Reads cases from the arguments, one JSON list of `errors`' arguments each."""
    print(json.dumps([errors(*case[:3], getattr(torch, case[3]), case[4]) for case in map(json.loads, sys.argv[1:])]))


if __name__ == "__main__":
    main()
