"""Files are whole or not there, and weights keep their recipe beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convmae.engine.errors import UserError
from convmae.engine.files import read_config, read_meta, save_atomically, save_weights


def _write_on_a_full_disk(file: Any) -> None:
    file.write(b"half")
    with open("/dev/full", "wb") as full:
        full.write(b"the rest")


def _save_on_a_full_disk(file: Any) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        torch.save({"a": torch.ones(100_000)}, full)


@pytest.mark.parametrize("write", [_write_on_a_full_disk, _save_on_a_full_disk])
def test_a_failed_write_is_said_and_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, write: Callable[[Any], None]
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"earlier")
    with pytest.raises(UserError, match=r"a\.bin can't be written \(No space left on device\); give another"):
        save_atomically(write, path)
    assert path.read_bytes() == b"earlier"
    assert [found.name for found in tmp_path.iterdir()] == ["a.bin"]


def test_folders_are_made_and_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    path = save_weights({"a": torch.ones(1)}, tmp_path / "new" / "deep" / "w.pth")
    assert path.is_file()
    with pytest.raises(UserError, match=r"w\.pth can't be written \(.+\)"):
        save_weights({"a": torch.ones(1)}, path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_carry_their_recipe_and_what_else_is_said_of_them(tmp_path: Path, suffix: str) -> None:
    said = {"dataset_meta": {"classes": ["sky", "road, route"]}}
    path = save_weights({"a": torch.ones(2, 2).t()}, tmp_path / f"w{suffix}", "model: {size: tiny}", said)
    assert read_config(path) == "model: {size: tiny}"
    assert read_meta(path) == said
    assert read_meta(save_weights({"a": torch.ones(1)}, path)) == {}


def test_a_file_of_others_has_no_recipe(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "plain.pth")
    torch.save({"model": {"a": torch.ones(1)}, "args": Path("x")}, tmp_path / "more.pth")
    assert read_config(tmp_path / "plain.pth") == read_config(tmp_path / "more.pth") == ""
    assert read_meta(tmp_path / "plain.pth") == read_meta(tmp_path / "more.pth") == {}


def test_what_mmseg_says_of_weights_is_read_among_what_its_training_kept(tmp_path: Path) -> None:
    meta = {"CLASSES": ("sky", "road"), "hook_msgs": {"best_score": np.float64(0.5)}}
    torch.save({"meta": meta, "state_dict": {"a": torch.ones(1)}, "amp": {}}, tmp_path / "iter.pth")
    assert read_meta(tmp_path / "iter.pth") == meta
