"""Label maps that lie among the pictures, as in a folder with images/ and annotations/: they are no pictures to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, Report, spread
from convmae.engine.pictures.images import open_image

_SUFFIXES = {".png", ".bmp", ".tif", ".tiff", ".gif"}  # lossless, as class indices must be kept
_FOLDERS = 300  # that are looked into, spread evenly
_OPENED = 3  # files of a folder, to see how many channels they have


def check_label_maps(paths: Sequence[Path], report: Report) -> None:
    """Reports the folders whose files have one channel of 8 bits and are named as pictures of another folder that have more."""
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() in _SUFFIXES:
            folders.setdefault(path.parent, []).append(path)
    chosen = spread(sorted(folders), _FOLDERS)
    one_channel = {folder for folder in chosen if all(map(_one_channel, spread(folders[folder], _OPENED)))}
    if not one_channel:
        return
    pictures = {path.stem: path for path in paths if path.parent not in one_channel}
    for folder in sorted(one_channel):
        named = [path for path in folders[folder] if path.stem in pictures]
        if 2 * len(named) > len(folders[folder]) and not _one_channel(pictures[named[0].stem]):
            message = (
                f"{folder} holds {len(folders[folder])} files of one channel, named as the pictures of another folder "
                f"({named[0].name}, {pictures[named[0].stem]}); if they are label maps, set data.root to the pictures alone"
            )
            report(Fault("folders that may hold label maps", message, Effect.DOUBTFUL))


def _one_channel(path: Path) -> bool:
    try:
        with open_image(path) as image:
            return image.mode in ("1", "L", "P")
    except UserError:  # said when it is read
        return False
