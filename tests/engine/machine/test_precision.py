"""Where and in which precision a run computes."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from convmae.engine.errors import UserError
from convmae.engine.machine import precision
from convmae.engine.options import RuntimeOptions

CPU = torch.device("cpu")
BY_INSTRUCTIONS = precision._multiplies_bf16  # before a fixture of every test has its way


def test_auto_takes_bf16_only_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", BY_INSTRUCTIONS)
    for known, taken in (
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "AMD Zen 4"}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, None),
        ({"avx2": True, "cpu_name": "AMD Zen 3"}, None),
    ):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda known=known: known, raising=False)
        assert precision.resolve_precision("auto", CPU) is taken


def test_bf16_on_a_cpu_without_its_products_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", BY_INSTRUCTIONS)
    for instructions, warned in (("avx2", True), ("avx512_bf16", False)):
        caplog.clear()
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda known=instructions: {known: True}, raising=False)
        assert precision.resolve_precision("bf16", CPU) is torch.bfloat16
        assert ("slower than fp32" in caplog.text) == warned


def test_tests_in_auto_run_in_both_precisions_on_every_processor(auto_precision: str) -> None:
    assert precision.precision_name(precision.resolve_precision("auto", CPU)) == auto_precision


def test_other_tests_in_auto_run_in_fp32_on_every_processor() -> None:
    assert precision.resolve_precision("auto", CPU) is None


def test_named_precisions() -> None:
    assert precision.resolve_precision("bf16", CPU) is torch.bfloat16
    assert precision.precision_name(precision.resolve_precision("fp32", CPU)) == "fp32"
    with pytest.raises(UserError, match="needs a CUDA device"):
        precision.resolve_precision("fp16", CPU)


def test_autocast_is_off_for_fp32() -> None:
    x = torch.ones(2, 2)
    with precision.autocast(CPU, None):
        assert (x @ x).dtype is torch.float32
    with precision.autocast(CPU, torch.bfloat16):
        assert (x @ x).dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_86", "sm_90"], True),  # code of an older minor version
        ((8, 0), ["sm_86", "sm_90"], False),
        ((7, 5), ["sm_80", "sm_90", "compute_90"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),  # compiled as it loads
        ((10, 0), ["sm_80", "sm_90a", "compute_90a"], False),
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((10, 3), ["sm_100f"], True),
        ((12, 0), ["compute_100f"], False),
        ((9, 4), ["gfx90a", "gfx942"], True),
    ],
)
def test_a_build_runs_on_the_gpus_that_it_has_code_for(
    capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    assert precision.has_code_for(capability, built) == runs


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_that_the_build_does_not_know_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (6, 1))
    with pytest.raises(UserError, match=r"has no code for Old Card \(sm_61\), only for sm_75, sm_90\. .*device=cpu"):
        precision.resolve_device(name)
    assert precision.resolve_device("cpu") == CPU
    pretend_gpu(monkeypatch, (9, 0))
    assert precision.resolve_device(name) == torch.device("cuda")


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *_: "Old Card")
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_75", "sm_90"])


def test_auto_takes_bf16_only_where_the_gpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation  # as on a GPU of before 2020

    monkeypatch.setattr("torch.cuda.is_bf16_supported", supported)
    assert precision.resolve_precision("auto", torch.device("cuda")) is None


@pytest.fixture
def flags_kept() -> Iterator[None]:
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.usefixtures("flags_kept")
def test_fp32_is_exact_unless_tf32_is_asked_for(tf32: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = precision.set_up(RuntimeOptions(device="cpu", precision="bf16", tf32=tf32))
    assert found == (CPU, torch.bfloat16)
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")  # PyTorch's compiler asks
    assert not RuntimeOptions().tf32


def test_an_absent_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert precision.resolve_device("auto") == CPU
    with pytest.raises(UserError, match="no CUDA device"):
        precision.resolve_device("cuda")
