"""The list of what a run wrote holds any name, and no part of a name is taken for another file."""

import os
from pathlib import Path

import pytest

from convmae.engine.run_files import LIST, claim, listed, remove_listed, start_list

NAMES = [
    "a\nbest.pth",
    "b\rc.pth",
    "d\u2028e.pth",
    "100 %41.pth",
    os.fsdecode(b"h\xfc.pth"),
    "行人.pth",
    "tab\t.pth",
    "\x85.pth",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_any_characters_is_one_entry(name: str, tmp_path: Path) -> None:
    start_list(tmp_path)
    (tmp_path / name).write_bytes(b"ours")
    for users in ("best.pth", "c.pth", "e.pth", "100 A.pth"):
        (tmp_path / users).write_bytes(b"the user's")
    claim(tmp_path / name)
    claim(tmp_path / name)
    assert listed(tmp_path) == [tmp_path / name]
    remove_listed(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100 A.pth", "best.pth", "c.pth", "e.pth"]


def test_a_pipe_in_place_of_the_list_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LIST)
    assert listed(tmp_path) is None
