"""Looks at every picture and label map before training starts, so that a bad file stops the run at once and by name."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.images import read_image
from convmae.segmentation.layout import IGNORE, Pair, label_header, read_label

_EXIF_ORIENTATION = 0x0112
_ENDINGS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"\xaeB`\x82"}  # last bytes of a whole file


@dataclass
class Found:
    """What a split holds. Pixel counts are of the decoded pairs only."""

    name: str
    pairs: list[Pair]
    smallest: tuple[int, int] = (0, 0)  # width, height of the picture with the fewest pixels
    largest: tuple[int, int] = (0, 0)
    decoded: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # [num_classes]
    pictures: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # [num_classes], pictures with it
    ignored: int = 0
    problems: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Returns one line for the log and the report."""
        sizes = f"{self.smallest[0]} x {self.smallest[1]}"
        if self.largest != self.smallest:
            sizes += f" to {self.largest[0]} x {self.largest[1]}"
        total = int(self.pixels.sum()) + self.ignored
        part = "all decoded" if self.decoded == len(self.pairs) else f"{self.decoded} decoded"
        return (
            f"{len(self.pairs)} pictures with label maps ({part}), {sizes} pixels, {int((self.pixels > 0).sum())} of "
            f"{len(self.pixels)} classes occur, {100 * self.ignored / max(total, 1):.1f} % of pixels ignored"
        )

    def raise_problems(self) -> None:
        """Raises UserError with the first three problems, if there are any."""
        if self.problems:
            more = f"\n(and {len(self.problems) - 3} more problems)" if len(self.problems) > 3 else ""
            raise UserError("\n".join(self.problems[:3]) + more)


def check_pairs(name: str, pairs: list[Pair], num_classes: int, reduce_zero_label: bool, decode: int) -> Found:
    """Reads the headers of all pairs, decodes ``decode`` of them spread evenly, and returns what was found with all problems.

    Files that end before their format's end marker are decoded in any case.
    """
    found = Found(name, pairs)
    found.pixels, found.pictures = np.zeros(num_classes, dtype=np.int64), np.zeros(num_classes, dtype=np.int64)
    chosen = set(np.linspace(0, len(pairs) - 1, min(decode, len(pairs))).round().astype(int).tolist())

    def look(index: int) -> tuple[tuple[int, int] | None, np.ndarray | None, str]:
        """Returns the size, the count of each label value if decoded, and the problem."""
        pair, size = pairs[index], None
        try:
            size = _check_headers(pair)
            if index in chosen or not all(map(_ends_whole, pair)):
                return size, _count(pair, num_classes, reduce_zero_label), ""
        except UserError as error:
            return size, None, str(error)
        return size, None, ""

    sizes: list[tuple[int, int]] = []
    with ThreadPoolExecutor() as pool:  # decoding and waiting for a disk both let other threads run
        for size, counts, problem in pool.map(look, range(len(pairs))):
            sizes += [size] if size else []
            found.problems += [problem] if problem else []
            if counts is not None:
                found.decoded += 1
                found.pixels += counts[:num_classes]
                found.pictures += counts[:num_classes] > 0
                found.ignored += int(counts[IGNORE])
    if sizes:
        found.smallest = min(sizes, key=lambda size: size[0] * size[1])
        found.largest = max(sizes, key=lambda size: size[0] * size[1])
    if found.decoded and not found.pixels.any() and not found.problems:
        found.problems.append(
            f"{pairs[0].label.parent}: every pixel of {found.decoded} label maps is ignored; expected class indices. "
            "If label 0 is a class, set data.reduce_zero_label=false."
        )
    return found


def _check_headers(pair: Pair) -> tuple[int, int]:
    """Returns the picture's width and height as seen upright; raises UserError where the label map's differs."""
    try:
        with Image.open(pair.image) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, SyntaxError) as error:
        raise UserError(f"{pair.image} can't be read as a picture ({error}); replace or remove the file.") from None
    size = (height, width) if turned else (width, height)
    label_size = label_header(pair.label)
    if label_size != size:
        hint = " (the picture is turned by its EXIF tag: its label map must be upright too)" if turned else ""
        raise UserError(
            f"{pair.label} is {label_size[0]} x {label_size[1]} pixels; expected {size[0]} x {size[1]} as its picture "
            f"{pair.image} has{hint}. Export the label map at the picture's size."
        )
    return size


def _ends_whole(path: Path) -> bool:
    ending = _ENDINGS.get(path.suffix.lower())
    if ending is None:
        return True
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - len(ending)))
        return file.read() == ending


def _count(pair: Pair, num_classes: int, reduce_zero_label: bool) -> np.ndarray:
    read_image(pair.image)
    return np.bincount(read_label(pair.label, num_classes, reduce_zero_label).ravel(), minlength=256)
