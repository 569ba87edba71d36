"""Pictures of videos and cameras, and videos of pictures, through OpenCV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from PIL import Image

from convmae.engine.errors import UserError

ENDINGS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts"}
USUAL_RATE = 25.0  # pictures a second, where a camera tells none
_ROUNDING = 2  # frames by which the number that a file tells may be off


def is_video(given: str | os.PathLike[str]) -> bool:
    """Returns whether a name stands for a video: a camera's number where no file has that name, or a video's ending."""
    name = os.fspath(given)
    return (re.fullmatch(r"\d+", name) is not None and not os.path.exists(name)) or Path(name).suffix.lower() in ENDINGS


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps OpenCV from printing what each of its readers tried: the error that follows says it in one line."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


class Video:
    """A video file, or the camera of a number, while it is open. ``rate``: frames a second; ``frames``: of a file, as it says.

    Raises UserError where it can't be opened.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.camera = re.fullmatch(r"\d+", name) is not None and not os.path.exists(name)
        if not self.camera and not os.path.isfile(name):
            raise UserError(f"There is no video {name}.")
        with _silent():
            self._capture = cv2.VideoCapture(int(name) if self.camera else name)
        if not self._capture.isOpened():
            what = f"There is no camera {name}, or another program has it" if self.camera else f"{name} can't be read"
            raise UserError(f"{what}; expected a video that OpenCV decodes, or the number of a camera, from 0.")
        rate, frames = (self._capture.get(kind) for kind in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.rate = rate if np.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE
        self.frames = int(frames) if not self.camera and np.isfinite(frames) and frames > 0 else 0

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._capture.release()

    def read(self, most: int = 0) -> Iterator[Image.Image]:
        """Yields its pictures in RGB, ``most`` at most (0: all).

        Raises UserError for a file that ends before the number of frames that it says, and one without any.
        """
        count = 0
        while not most or count < most:
            whole, frame = self._capture.read()
            if not whole:
                break
            count += 1
            yield Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
        else:
            return
        if count == 0 or (self.frames and count < self.frames - _ROUNDING):
            of_them = f" of {self.frames}" if self.frames else ""
            raise UserError(
                f"{self.name} ends after {count} frame{'s' * (count != 1)}{of_them}: it is cut off or damaged"
                f"{', or its camera is gone' if self.camera else ''}."
            )


class VideoWriter:
    """Writes pictures of one size as an MP4 file, which is made at the first of them."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.release()

    def add(self, image: Image.Image) -> None:
        """Adds a picture. Raises UserError where the file can't be written."""
        if self._writer is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{self.path} can't be written: {error.strerror}. Give another --output.") from None
            self._size = image.width - image.width % 2, image.height - image.height % 2  # as codecs want them
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self.rate, self._size)
            if not self._writer.isOpened():
                raise UserError(f"{self.path} can't be written by OpenCV; give another --output.")
        width, height = self._size
        self._writer.write(np.ascontiguousarray(np.asarray(image.convert("RGB"))[:height, :width, ::-1]))
