"""The fused kernels by Triton's interpreter against the formula, compiled for GPUs that are not here, and as an operator."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from convmae.backbones.attention import fused
from convmae.backbones.attention.fused import Tiles, is_fused

pytest.importorskip("triton", reason="without Triton there are no fused kernels")

# grid, window, width of a head, precision, tokens of a tile
CASES = [
    ((5, 7), (5, 7), 8, "float32", 16),  # bands of two rows, the last of one
    ((7, 9), (3, 4), 16, "float32", 16),  # windows that do not divide the grid
    ((2, 20), (2, 20), 20, "float32", 16),  # rows wider than a tile; channels that fill no block
    ((2, 3), (4, 4), 16, "float32", 16),  # a grid smaller than the window
    ((6, 6), (6, 6), 32, "float16", 32),
]


@pytest.fixture(scope="module")
def errors() -> list[list[float]]:
    script = Path(__file__).with_name("interpreted_attention.py")
    run = subprocess.run(
        [sys.executable, str(script), *map(json.dumps, CASES)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "only 0-dimensional arrays can be converted" in run.stderr:
        pytest.skip("this Triton's interpreter can't work with this NumPy (3.6 with 2.5)")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_output_and_all_gradients_equal_the_formula(errors: list[list[float]], case: int) -> None:
    limit = 1e-6 if CASES[case][3] == "float32" else 1e-3
    assert len(errors[case]) == 5
    assert max(errors[case]) < limit


@pytest.mark.parametrize(
    ("kernel", "capability", "block"),
    [(kernel, capability, 64) for kernel in (*fused.TILES, "fold_bands") for capability in (80, 90)]
    + [("table_gradients", 80, 128)],
)
def test_kernels_compile_for_gpus_and_fit_their_shared_memory(kernel: str, capability: int, block: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from convmae.backbones.attention import fused_kernels

    tile: Tiles = fused.TILES.get(kernel, Tiles(64, 64, 4, 1))
    function = getattr(fused_kernels, kernel)
    constants = {"D": 64, "BLOCK_D": 64, "COLUMNS": 128, "PRECISION": "tf32"}
    constants |= {"BLOCK_M": tile.queries, "BLOCK_N": tile.keys, "BLOCK": block}
    wide = {"table", "lse", "means", "sums", "grad_table"}
    halves = {"query", "key", "value", "output", "grad", "grad_query", "grad_key", "grad_value"}

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name == "scale":
            return "fp32"
        return "*fp32" if name in wide else "*bf16" if name in halves else "i32"

    names = function.arg_names
    source = ASTSource(
        function,
        {name: kind(name) for name in names},
        {(place,): constants[name] for place, name in enumerate(names) if name in constants},
        {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if kind(name).startswith("*")},
    )
    wide_tiles = block > 64
    options = {"num_warps": tile.warps * (2 if wide_tiles else 1), "num_stages": 1 if wide_tiles else tile.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= (160 if wide_tiles else 99) * 1024


@pytest.mark.parametrize(("kilobytes", "widest"), [(227, 128), (163, 128), (99, 64), (96, 0), (None, 0)])
def test_windows_are_as_wide_as_a_gpus_shared_memory_allows(
    kilobytes: int | None, widest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {} if kilobytes is None else {"shared_memory_per_block_optin": kilobytes * 1024}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(**known))
    assert fused._widest_window(0) == widest


def test_it_is_for_gpus_and_what_their_kernels_take() -> None:
    def query(width: int, dtype: torch.dtype, device: str = "cuda") -> Tensor:
        return torch.empty(1, 2, 16, width, dtype=dtype, device=device)

    with torch._subclasses.FakeTensorMode():
        assert is_fused(query(64, torch.bfloat16), (4, 4))
        assert is_fused(query(64, torch.float32), (64, 128))
        assert not is_fused(query(64, torch.bfloat16, "cpu"), (4, 4))
        assert not is_fused(query(64, torch.float64), (4, 4))
        assert not is_fused(query(80, torch.float32), (4, 4))
        assert not is_fused(query(192, torch.bfloat16), (4, 4))
        assert not is_fused(query(64, torch.bfloat16), (4, 129))


def test_its_gradients_lie_in_memory_as_the_layers_around_it_have_theirs() -> None:
    with torch._subclasses.FakeTensorMode():
        query, key, value = (
            x.transpose(1, 2) for x in torch.empty(1, 4096, 3, 2, 64, device="cuda", dtype=torch.bfloat16).unbind(2)
        )
        table = torch.empty(2, 127, 127, device="cuda")
        output, lse = torch.ops.convmae.fused_attention(query, key, value, table, [64, 64], [64, 64])
        grads = torch.ops.convmae.fused_attention_backward(
            query, key, value, table, output, lse, torch.empty_like(output), [64, 64], [64, 64]
        )
    assert [grad.shape for grad in grads] == [query.shape, key.shape, value.shape, table.shape]
    assert {x.stride() for x in (output, *grads[:3])} == {(4096 * 2 * 64, 64, 2 * 64, 1)}
