"""Fixtures that every test folder shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from convmae.engine.machine import precision

# The models are tiny: on a shared machine two threads spend their time waiting for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def auto_is_fp32() -> Iterator[None]:
    """What a test computes in is no matter of the processor: ``runtime.precision=auto`` is fp32 on every CPU.

    Tools in processes of their own are given a precision by name.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_multiplies_bf16", lambda: False)
        yield


@pytest.fixture(params=["fp32", "bf16"])
def auto_precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test in both of what ``auto`` may be on a CPU, whatever this one multiplies fast, and says which it is."""
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda: request.param == "bf16")
    return request.param


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real pictures: CONVMAE_TEST_DATA, else ../shared/data beside the checkout; absent, the test skips."""
    given = os.environ.get("CONVMAE_TEST_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            f"no real data at {folder}: set CONVMAE_TEST_DATA to a folder that holds coco_mini, camvid_mini, ..."
        )
    return folder


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The reference outputs of the published code, as numbers."""
    return Path(__file__).resolve().parent / "data"
