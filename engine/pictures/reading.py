"""How the files of a run become bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from convmae.engine.errors import UserError
from convmae.engine.faults import UNREADABLE, as_fault

MAX_PIXELS = 180_000_000  # no fewer than Pillow refuses by itself


@dataclass(frozen=True)
class Reading:
    """How the files of a run become bytes.

    ``range``: the values of pictures beyond 8 bits that become 0 and 255, None where the file's kind tells;
    ``max_pixels``: larger pictures are refused before they are decoded.
    """

    channels: int = 3
    range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS


RGB = Reading()


class Unreadable(UserError):
    """A picture's file can't be read; what else a sample lacks is another error."""


@contextmanager
def reading_picture() -> Iterator[None]:
    """Has a UserError of reading a picture be Unreadable, but for a Fault of one that is not as the options ask."""
    try:
        yield
    except UserError as error:
        if as_fault(error, UNREADABLE).kind != UNREADABLE:
            raise
        raise Unreadable(str(error)) from None
