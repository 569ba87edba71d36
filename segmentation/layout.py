"""Where pictures, label maps and class names lie, and how a label map is read."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.images import list_images
from convmae.segmentation.config import SegmentationDataOptions

IGNORE = 255  # the label of a pixel that neither trains nor counts
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # lossless: JPEG would change class indices


class Pair(NamedTuple):
    """A picture and its label map."""

    image: Path
    label: Path


def read_classes(options: SegmentationDataOptions) -> list[str]:
    """Returns the class names, "other" left out.

    A list is a text file with one name a line, or index, tab, name; ``ade20k`` stands for the 150 names of ADE20K.
    Raises UserError if the file is missing, empty, out of order, or longer than 8-bit label maps can hold.
    """
    if options.classes == "ade20k":
        from convmae.segmentation.mmseg_parts import ADE20KDataset  # here, because mmseg takes seconds to import

        return list(ADE20KDataset.METAINFO["classes"])
    path = Path(options.classes) if options.classes else Path(options.root) / "classes.txt"
    if not path.is_file():
        raise UserError(
            f"No class list at {path}; expected a text file with one class name a line. Set data.classes to such a file, "
            "or to ade20k for its 150 classes."
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    first = 1 if options.reduce_zero_label else 0
    names = _strip_indices(lines, first, path)
    largest = IGNORE - first
    if not 2 <= len(names) <= largest:
        raise UserError(
            f"{path} names {len(names)} classes; expected 2 to {largest} (8-bit label maps, {IGNORE} is ignored)."
        )
    return names


def find_pairs(images: Path, labels: Path) -> list[Pair]:
    """Returns the pictures under ``images`` with the label maps of the same relative path (suffix aside) under ``labels``.

    Raises UserError for a missing or empty folder and for a picture or label map without its partner.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(
                f"No folder {folder}; expected the ADE20K layout (images/training, images/validation, annotations/training, "
                "annotations/validation). Set data.root, or data.train_images and its like."
            )
    image_of = _by_stem(list_images(images), images)
    label_of = _by_stem([path for path in list_images(labels) if path.suffix.lower() in LABEL_SUFFIXES], labels)
    if not label_of:
        raise UserError(f"{labels} holds no label map; expected lossless ones: {', '.join(LABEL_SUFFIXES)}.")
    alone = [
        f"{image_of[stem]} has no label map; expected {labels / stem}.png"
        for stem in sorted(image_of.keys() - label_of.keys())
    ] + [f"{label_of[stem]} has no picture in {images}" for stem in sorted(label_of.keys() - image_of.keys())]
    if alone:
        more = f" (and {len(alone) - 3} more)" if len(alone) > 3 else ""
        raise UserError(
            "; ".join(alone[:3]) + more + ". Pictures and label maps pair by name: add or remove these files."
        )
    return [Pair(image_of[stem], label_of[stem]) for stem in sorted(image_of)]


def label_header(path: Path) -> tuple[int, int]:
    """Returns width and height of a label map without decoding it; raises UserError unless it has one 8-bit channel."""
    try:
        with Image.open(path) as label:
            if label.mode not in ("L", "P", "1"):
                kind = "16- or 32-bit" if label.mode.startswith(("I", "F")) else "colour"
                raise UserError(
                    f"{path} is a {kind} label map (mode {label.mode}); expected one 8-bit channel with a class index a pixel "
                    "(mode L, or P whose palette indices are the classes). Convert it."
                )
            return label.size
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for broken PNG chunks
        raise UserError(
            f"{path} can't be read as a label map ({error}); expected a whole PNG. Replace the file."
        ) from None


def read_label(path: Path, num_classes: int, reduce_zero_label: bool) -> np.ndarray:
    """Returns a label map as uint8 [H, W] with classes 0..num_classes - 1 and IGNORE.

    Raises UserError for a colour, 16-bit or truncated file and for a label beyond the class list.
    """
    label_header(path)
    try:
        with Image.open(path) as image:
            raw = np.array(image, dtype=np.uint8)
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} can't be decoded ({error}); expected a whole PNG. Replace the file.") from None
    first = 1 if reduce_zero_label else 0
    counts = np.bincount(raw.ravel(), minlength=256)
    beyond = np.flatnonzero(counts[num_classes + first : IGNORE]) + num_classes + first
    if beyond.size:
        raise UserError(
            f"{path} holds label {beyond[-1]}; expected {first}..{num_classes + first - 1} for the {num_classes} classes of "
            f"the list{', 0 for other' if first else ''} and {IGNORE} for ignored. Correct the file or the class list"
            + (" (if label 0 is a class, set data.reduce_zero_label=false)." if first else ".")
        )
    # uint8 arithmetic wraps, so 0 (other) becomes 255, which is IGNORE.
    return np.where(raw == IGNORE, np.uint8(IGNORE), raw - np.uint8(first))


def _strip_indices(lines: list[str], first: int, path: Path) -> list[str]:
    """Drops leading indices and the name of label 0 where it means other."""
    indexed = [re.match(r"(\d+)[\t,;: ]+(\S.*)", line) for line in lines]
    if not lines or not all(indexed):
        return lines
    found = [(int(match.group(1)), match.group(2)) for match in indexed if match]
    start = 0 if found[0][0] == 0 else first
    for place, (index, name) in enumerate(found, start=start):
        if index != place:
            raise UserError(f"{path}: class {name!r} has index {index}; expected {place}, counting up by one.")
    return [name for index, name in found if index >= first]


def _by_stem(paths: list[Path], folder: Path) -> dict[str, Path]:
    """Maps relative paths without suffix to files; two files of one stem are an error."""
    named: dict[str, Path] = {}
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in named:
            raise UserError(f"{path} and {named[stem]} differ in suffix only; expected one file a name. Remove one.")
        named[stem] = path
    return named
