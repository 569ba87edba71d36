"""Position tables against their plain formulas."""

import math

import pytest
import torch

from convmae.backbones.position import (
    bias_at_grid,
    resample_bias_table,
    resample_offsets,
    resample_pos_embed,
    sincos_pos_embed,
)


def test_sincos_table_is_its_formula() -> None:
    table = sincos_pos_embed(16, (3, 5))
    assert table.shape == (1, 15, 16)
    for row, column, frequency in [(0, 0, 0), (2, 4, 3), (1, 3, 2)]:
        omega = 10000 ** (-frequency / 4)
        entry = table[0, row * 5 + column]
        expected = [
            math.sin(column * omega),
            math.cos(column * omega),
            math.sin(row * omega),
            math.cos(row * omega),
        ]
        torch.testing.assert_close(entry[frequency::4], torch.tensor(expected))


def test_sincos_width_must_divide() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 10"):
        sincos_pos_embed(10, (2, 2))


def test_pos_embed_at_its_own_grid_is_untouched() -> None:
    table = torch.randn(1, 6, 8)
    assert resample_pos_embed(table, (2, 3), (2, 3)) is table


def test_pos_embed_keeps_rows_and_columns_apart() -> None:
    row_ramp = torch.arange(4.0)[:, None].expand(4, 6).reshape(1, 24, 1)
    grown = resample_pos_embed(row_ramp, (4, 6), (8, 3)).reshape(8, 3)
    torch.testing.assert_close(grown, grown[:, :1].expand(8, 3))
    assert (grown[1:, 0] > grown[:-1, 0]).all()


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (7, 3), (7, 7)])
def test_smaller_grid_keeps_the_central_offsets(grid: tuple[int, int]) -> None:
    window = (7, 7)
    table = torch.randn(13 * 13, 2)
    bias = bias_at_grid(table, window, grid)
    assert bias.shape == (2, 2 * grid[0] - 1, 2 * grid[1] - 1)
    for below in range(1 - grid[0], grid[0]):
        for right in range(1 - grid[1], grid[1]):
            entry = bias[:, below + grid[0] - 1, right + grid[1] - 1]
            assert torch.equal(entry, table[(below + 6) * 13 + right + 6])


def test_larger_grid_is_resampled_and_stays_centred() -> None:
    offsets = torch.arange(-3.0, 4.0)
    table = (offsets[:, None].abs() + offsets[None].abs()).reshape(49, 1)
    grown = bias_at_grid(table, (4, 4), (8, 8))[0]
    assert grown.shape == (15, 15)
    torch.testing.assert_close(grown, grown.flip(0).flip(1))
    assert grown.argmin() == 7 * 15 + 7


def test_one_side_grows_and_the_other_shrinks() -> None:
    offsets = torch.arange(-3.0, 4.0)
    table = (offsets[:, None] * 0 + offsets[None]).reshape(49, 1)  # the columns' offset alone
    fitted = resample_bias_table(table, (4, 4), (9, 2)).view(17, 3)
    torch.testing.assert_close(fitted, torch.tensor([-1.0, 0.0, 1.0]).expand(17, 3))


@pytest.mark.parametrize("length", [1, 3, 7])
def test_fewer_offsets_are_the_central_ones(length: int) -> None:
    table = torch.randn(13, 4)
    assert torch.equal(resample_offsets(table, length), table[7 - length : 6 + length])


def test_more_offsets_are_interpolated_linearly_between_the_nearest() -> None:
    table = torch.randn(5, 2)
    grown = resample_offsets(table, 8)
    assert grown.shape == (15, 2)
    for entry in range(15):
        place = min(max((entry + 0.5) * 5 / 15 - 0.5, 0.0), 4.0)  # samples stand in the middle of equal intervals
        below, part = int(place), place - int(place)
        expected = table[below] * (1 - part) + table[min(below + 1, 4)] * part
        torch.testing.assert_close(grown[entry], expected)
