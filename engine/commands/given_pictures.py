"""What predicting on given pictures takes, whatever the task: which there are, where a drawing goes, and what can't be read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from convmae.engine.config import from_tree
from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.files import read_config
from convmae.engine.options import ReadingOptions
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import Picture, read_image
from convmae.engine.pictures.reading import Reading
from convmae.engine.safe_yaml import parse_yaml
from convmae.engine.shards.places import place


@dataclass
class _PictureConfig:
    """What concerns pictures in the trees of all tasks."""

    data: ReadingOptions = field(default_factory=ReadingOptions)


def kept_reading(checkpoint: Path, overrides: Sequence[str] = (), channels: int = 3) -> Reading:
    """Returns how the run that wrote a checkpoint, of whatever task, read its pictures; published weights: as by default.

    Raises UserError for ``overrides`` other than of ``ReadingOptions`` in ``data``.
    """
    tree = parse_yaml(read_config(checkpoint), str(checkpoint))
    of_data = tree.get("data") if isinstance(tree, dict) else None
    names = [one.name for one in fields(ReadingOptions)]
    kept = {name: of_data[name] for name in names if name in of_data} if isinstance(of_data, dict) else {}
    return from_tree(_PictureConfig, {"data": kept}, overrides).data.reading(channels)


def say(fault: Fault) -> None:
    """Prints what of a folder of pictures is passed over."""
    print(f"note: {fault}", file=sys.stderr)


def find_pictures(given: Sequence[Path]) -> dict[Path, Path]:
    """Returns for each picture given, or in a folder given, its name: the file's, or its place in that folder."""
    found: dict[Path, Path] = {}
    for top in map(place, given):
        for path in list_images(top, say) if top.is_dir() else [top]:
            found.setdefault(path, path.relative_to(top) if top.is_dir() else Path(path.name))
    return found


def name_drawings(pictures: Mapping[Path, Path], output: Path) -> dict[Path, Path]:
    """Returns for each picture the name of its drawing below ``output``, from the name that each has.

    Names differ in more than their ending, so that each can have other files beside it. Raises UserError where a drawing
    could take the place of a picture.
    """
    drawings: dict[Path, Path] = {}
    taken: set[Path] = set()
    top = os.path.realpath(output)
    for path, name in pictures.items():
        if Path(os.path.realpath(path)).is_relative_to(top):
            raise UserError(f"{path} lies in {output}, where the drawings go; give another folder by --output.")
        name = Path(*(part for part in name.parts if part not in ("..", name.anchor)))
        stem, number = name.with_suffix(""), 2
        while stem in taken:
            stem = name.with_name(f"{name.stem}-{number}")
            number += 1
        taken.add(stem)
        ending = ".jpg" if name.suffix.lower() in (".jpg", ".jpeg") else ".png"
        drawings[path] = stem.with_name(stem.name + ending)
    return drawings


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """Raises UserError for a file that would be replaced unasked: an earlier drawing, or a picture of the user's."""
    taken = next((path for path in paths if path.exists()), None) if not overwrite else None
    if taken is not None:
        raise UserError(f"{taken} is there already: give another --output, or --overwrite.")


def read_pictures(
    names: Mapping[Path, Path], read: Callable[[Path], Picture] = read_image
) -> Iterator[tuple[Path, Path, Picture]]:
    """Yields each picture that can be read, with its path and its drawing's name; says of the others why not."""
    for path, name in tqdm(names.items(), disable=None):
        try:
            image = read(path)
        except UserError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            continue
        yield path, name, image


def save_picture(image: Image.Image, path: Path) -> None:
    """Writes a picture and the folders above it. Raises UserError where that can't be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except (OSError, ValueError) as error:  # ValueError: more pixels than the format has room for
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} can't be written: {reason}. Give another place by --output.") from None
