"""What is no file where a picture is expected: named, never waited for."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzzing import check_script
from PIL import Image

from convmae.engine.commands.given_pictures import find_pictures, read_pictures
from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import Box, look_at, read_crop, read_image
from convmae.engine.pictures.reading import Reading
from convmae.engine.regular_files import kind_of_file


@pytest.fixture
def bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as found:
        yield found


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "npy", "ico"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "link to a pipe"])
def test_what_is_no_file_is_named(tmp_path: Path, bound: socket.socket, ending: str, kind: str) -> None:
    path = tmp_path / f"a.{ending}"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            bound.bind(path.name)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            os.mkfifo(tmp_path / "b")
            path.symlink_to(tmp_path / "b")
    found = kind_of_file(path)
    assert found in kind
    for read in (read_image, look_at, lambda path: read_crop(path, lambda height, width: Box(0, 0, height, width), 8)):
        with pytest.raises(UserError, match=f"{path} is a {found}; expected a file"):
            read(path)
    Image.new("RGB", (4, 4)).save(tmp_path / "whole.png")
    faults: list[Fault] = []
    assert list_images(tmp_path, faults.append) == [tmp_path / "whole.png"]
    if kind != "folder":
        assert [str(fault) for fault in faults if str(path) in str(fault)] == [
            f"{path} is a {found}, not a file, and is passed over"
        ]
        assert not list(read_pictures(find_pictures([path])))


def test_links_that_lead_to_one_another_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for name, target in (("b", tmp_path), ("c", tmp_path), ("root", Path("/")), ("loop", tmp_path / "loop")):
        (tmp_path / name).symlink_to(target)
    faults: list[Fault] = []
    assert list_images(tmp_path, faults.append) == [tmp_path / "a.png"]
    told = [str(fault) for fault in faults if fault.kind == "links that lead back"]
    assert len(told) == 3
    assert f"{tmp_path / 'root'} leads back to /" in told[2]
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(UserError, match=r"loop.png is a link to .*loop.png, which is not there"):
        list_images(tmp_path)


def test_an_array_that_claims_more_than_its_file_has_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**17, 2**17)})
    with pytest.raises(UserError, match=r"a.npy can't be read as an array \(mmap length is greater than file size"):
        read_image(path)
    os.truncate(path, 2**36 + 1000)  # 64 GiB, of which the disk holds none
    with pytest.raises(UserError, match=r"a.npy is 131072 x 131072 pixels, 17,180 million; data.max_pixels"):
        read_image(path, Reading(1))
    with pytest.raises(UserError, match=r"has the shape|data.max_pixels"):
        look_at(path, Reading(3))


def test_pictures_changed_at_random_are_read_or_refused() -> None:
    """More of them by the script itself."""
    check_script(Path(__file__).parent / "pictures" / "fuzz_pictures.py", 400, 0, 1500)
