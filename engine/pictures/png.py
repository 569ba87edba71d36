"""PNG files whose metadata are broken, but not their pixels."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"tRNS", b"eXIf")  # of what a decoder may leave out: they change pixels, or turn them


def pixels_alone(path: Path) -> io.BytesIO | None:
    """Returns a PNG without its profiles, texts and other ancillary chunks; None for a file of another format."""
    with path.open("rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            return None
        raw = file.read()
    parts, at = [_SIGNATURE], 0
    while at + 8 <= len(raw):
        length, kind = struct.unpack(">I4s", raw[at : at + 8])
        chunk = raw[at : at + length + 12]
        critical = not kind[0] & 0x20
        if critical or (kind in _KEPT and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")):
            parts.append(chunk)
        at += length + 12
    return io.BytesIO(b"".join(parts))
