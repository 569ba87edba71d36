"""Fixtures that every test folder shares."""

import os
from pathlib import Path

import pytest
import torch

# The models are tiny: on a shared machine two threads spend their time waiting for each other.
torch.set_num_threads(1)


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
