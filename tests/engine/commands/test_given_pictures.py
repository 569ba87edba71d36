"""Given pictures: each is taken once, and what is written of it has a name of its own."""

from pathlib import Path

import pytest
from PIL import Image

from convmae.engine.commands.given_pictures import find_pictures, name_drawings, read_pictures, save_picture
from convmae.engine.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "given" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "a.png", "b.tif", "deep/a.JPEG"):
        Image.new("RGB", (4, 3)).save(tmp_path / "given" / name)
    return tmp_path / "given"


def test_names_differ_in_more_than_their_ending(folder: Path, tmp_path: Path) -> None:
    names = name_drawings(find_pictures([folder, folder / "a.png", folder / "deep" / "a.JPEG"]), tmp_path / "out")
    found = {path.relative_to(folder).as_posix(): name.as_posix() for path, name in names.items()}
    assert found == {"a.jpg": "a.jpg", "a.png": "a-2.png", "b.tif": "b.png", "deep/a.JPEG": "deep/a.jpg"}


def test_what_a_folder_holds_beside_pictures_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "c.heic").touch()
    (folder / "gone.png").symlink_to("nowhere.png")
    names = name_drawings(find_pictures([folder]), tmp_path / "out")
    assert folder / "gone.png" in names  # said once more where it can't be read; the others are done
    said = capsys.readouterr().err
    assert f"note: {folder}: 1 file of other endings passed over: 1 .heic" in said
    assert "gone.png is a link to nowhere.png" in said


def test_no_drawing_takes_the_place_of_a_picture(folder: Path) -> None:
    with pytest.raises(UserError, match="give another folder by --output"):
        name_drawings(find_pictures([folder / "a.jpg"]), folder)


def test_pictures_that_cant_be_read_are_passed_over_and_named(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "b.tif").write_bytes(b"none")
    names = name_drawings(find_pictures([folder, folder / "gone.png"]), folder.parent / "out")
    assert [path.name for path, _, _ in read_pictures(names)] == ["a.jpg", "a.png", "a.JPEG"]
    said = capsys.readouterr().err
    assert "b.tif can't be read" in said
    assert "There is no picture" in said


def test_a_drawing_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, picture in (("file/a.png", Image.new("L", (4, 3))), ("a.webp", Image.new("L", (16384, 1)))):
        with pytest.raises(UserError, match=r"can't be written: (?!None).+ Give another place by --output"):
            save_picture(picture, tmp_path / place)


def test_a_folder_for_drawings_that_links_to_itself_is_no_traceback(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert len(name_drawings(find_pictures([folder]), tmp_path / "loop")) == 4
