"""Whatever a weights file holds, every way of reading it ends in a load or in one message, and at once."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import pytest
import torch
from doors import DOORS
from hostile import CONTENTS, SAFETENSORS, write_all

from convmae.backbones import CheckpointError, load_checkpoint
from convmae.backbones.weights.safe_files import read_file
from convmae.engine.errors import UserError
from convmae.engine.files import read_config, read_meta, read_text

CHEAP = ("load_checkpoint", "beside", "recipe of a classifier", "recipe of a detector", "recipe of pictures")
# What reaches past the reader of files, which all doors share.
SHAPES = (
    "text", "number as a tensor", "no rows", "rows without sides", "flat", "one more row", "repeated in its form",
    "no values, huge", "complex, other rows", "bool", "eight bits",
)  # fmt: skip
DEEP = [
    kind
    for kind in CONTENTS
    if kind.startswith(("classes of", "average of other")) or kind.removeprefix("all ") in SHAPES
]
LONGEST = 2.0  # seconds; a bomb takes hours


def check(door: str, files: dict[str, Path]) -> None:
    for kind, path in files.items():
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            try:
                DOORS[door].use(path)
            except (CheckpointError, UserError):
                pass
            except Exception as error:
                pytest.fail(f"{door}, {kind}: {type(error).__name__}: {error}")
        assert time.process_time() - started < LONGEST, (door, kind)


@pytest.mark.parametrize("door", DOORS)
def test_no_content_ends_in_a_traceback(door: str, tmp_path: Path) -> None:
    state, names, _ = DOORS[door]
    chosen = (tuple(CONTENTS),) if door in CHEAP else (DEEP, SHAPES)
    check(door, write_all(tmp_path, state(), names, *chosen))


@pytest.mark.parametrize("door", CHEAP)
def test_no_safetensors_file_ends_in_a_traceback(door: str, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"{number}.safetensors" for number, kind in enumerate(SAFETENSORS)}
    for kind, path in files.items():
        path.write_bytes(SAFETENSORS[kind])
    check(door, files)


@pytest.mark.parametrize("door", [door for door in DOORS if not door.startswith(("recipe", "convert to ours"))])
def test_what_is_whole_is_taken(door: str, tmp_path: Path) -> None:
    torch.save({"model": DOORS[door].state()}, tmp_path / "whole.pth")
    DOORS[door].use(tmp_path / "whole.pth")


def test_what_holds_itself_or_stands_there_again_and_again_is_refused_by_name(tmp_path: Path) -> None:
    state = {"a": torch.ones(2, 2), "b": torch.ones(2)}
    expected = {
        "holds itself": "has a container that holds itself",
        "ladder": r"comes to [\d,]+ values, of few that stand there again and again",
        "deep": "has more than 64 containers within each other",
        "mixed keys": "has weights under 3; expected names",
        "long names": "has weights under 'a.a.",
        "average of other shapes": "its average has 'a'",
    }
    for kind, words in expected.items():
        torch.save(CONTENTS[kind](dict(state)), tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(torch.nn.Linear(2, 2), tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_pipes_devices_and_links_to_themselves_are_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / name).symlink_to(tmp_path / "pipe")
    for path in (tmp_path / name, Path("/dev/zero"), Path("/dev/stdin")):
        with pytest.raises(CheckpointError, match="a pipe or device at"):
            read_file(path)
        with pytest.raises(UserError, match=r"is a (pipe|socket|device); expected a file"):
            read_text(path)
    for path in (tmp_path / "loop", tmp_path / ("x" * 5000), Path("a\0b")):
        with pytest.raises(CheckpointError, match="no file at"):
            read_file(path)
    assert (read_config(tmp_path / name), read_meta(tmp_path / name)) == ("", {})
