"""Files are whole or not there, and weights keep their recipe beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convmae.engine.errors import UserError
from convmae.engine.files import read_config, read_meta, read_text, save_atomically, save_weights, write_whole


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_is_read_as_its_mark_says(tmp_path: Path, encoding: str, end: str) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    text = end.join(["Hündchen", "行人\t한국어", "a\x0bb\u2028c", "😀"])
    (tmp_path / "list.txt").write_bytes((mark + text).encode(encoding))
    assert read_text(tmp_path / "list.txt").split("\n") == ["Hündchen", "行人\t한국어", "a\x0bb\u2028c", "😀"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "Hündchen".encode("latin-1"),
            r"list\.txt is no UTF-8 text \(invalid start byte at byte 1\); save it as UTF-8",
        ),
        ("行人".encode("gb18030"), "is no UTF-8 text"),
        ("行人".encode("shift-jis"), "is no UTF-8 text"),
        ("cat\ndog".encode("utf-16-le"), r"is no UTF-8 text \(a zero at byte 1\)"),
        (b"\xff\xfe\x00\xd8", "is no UTF-16 text"),
        ("cat".encode("utf-32"), "save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is no UTF-8 text"),
    ],
)
def test_what_is_no_text_in_utf8_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text(tmp_path / "list.txt")


def test_a_text_that_is_not_there_or_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt can't be read: No such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(UserError, match="is a folder; expected a file"):
        read_text(tmp_path)


def test_half_a_character_is_written_as_an_escape(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "ü \ud800 \udcfc")
    assert (tmp_path / "a.txt").read_bytes() == "ü \\ud800 \\udcfc".encode()
