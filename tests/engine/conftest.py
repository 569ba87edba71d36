"""Trees of pictures of many kinds, what packs them, and a server of files."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from convmae.tools import pack


def draw(number: int, width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """Draws the picture of a number."""
    return draw


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of JPEG, PNG (8 and 16 bits, palette) and TIFF files, one turned and one broken, under odd names."""
    root = tmp_path / "tree"
    for folder in ("a", "a.b", "a b", "c/deep", "ü"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(
        ["a/1.jpg", "a/1.png", "a/1.5.jpg", "a/1.6.jpg", "a/%2E.jpg", "a/10.jpg", "a/2.JPG", "a.b/x.jpg", "a b/ö ü.jpg",
         "c/deep/1.jpg", "ü/é.jpg", "z.jpg", "a-.jpg"]
    ):  # fmt: skip
        draw(number).save(root / name, "PNG" if name.endswith("png") else "JPEG")
    exif = Image.Exif()
    exif[274] = 6
    draw(20).save(root / "a" / "turned.jpg", exif=exif)
    draw(21).convert("P").save(root / "a" / "palette.png")
    Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 20).save(root / "a" / "deep.png")
    draw(22).convert("L").save(root / "a" / "grey.tif")
    tifffile.imwrite(root / "a" / "planes.tif", np.zeros((3, 40, 60), np.uint8) + 7, photometric="minisblack")
    (root / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (root / "notes.txt").write_text("none")
    return root


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Class folders of JPEG pictures in two splits."""
    root = tmp_path / "classes"
    for split in ("train", "val"):
        for label, name in enumerate(("one", "two")):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                seed = (split == "val") * 1000 + label * 100 + number
                draw(seed).save(root / split / name / f"{number}.jpg")
    (root / "classes.txt").write_text("one\tThe first\ntwo\tThe second\n")
    return root


@pytest.fixture
def packed() -> Callable[..., Path]:
    """Packs a folder, which is small, and returns where."""

    def call(root: Path, output: Path, *options: str) -> Path:
        assert pack.main([str(root), str(output), "--processes", "1", *options]) == 0
        return output

    return call


class _Ranges(SimpleHTTPRequestHandler):
    """Answers parts of files, as servers for data do and Python's does not."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012  (one list for all requests)
    ranges = True

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        given = self.headers.get("Range", "")
        _Ranges.asked.append((path.name, given))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        if given and self.ranges:
            first, last = given.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served() -> Callable[..., AbstractContextManager[tuple[str, list[tuple[str, str]]]]]:
    """Serves a folder: gives its address on this machine, and the list of files and ranges that are asked for."""
    return serve


@contextmanager
def serve(folder: Path, ranges: bool = True) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Gives the address of a folder on this machine, and the list of files and ranges that were asked for."""
    _Ranges.asked, _Ranges.ranges = [], ranges

    def handler(*args: object) -> _Ranges:
        return _Ranges(*args, directory=str(folder))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", _Ranges.asked
        finally:
            server.shutdown()
