"""Which files of a folder are taken for pictures."""

from pathlib import Path

import pytest

from convmae.engine.errors import UserError
from convmae.engine.folders import list_images


def test_a_folder_is_listed_with_what_lies_below_it(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/2.JPG", "b/1.png", ".hidden.png", "note.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["1.png", "2.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        list_images(tmp_path / "empty")
    with pytest.raises(UserError, match="no folder"):
        list_images(tmp_path / "nowhere")
