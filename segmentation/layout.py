"""Where pictures, label maps and class names lie, and how a label map is read."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault, Report, refuse
from convmae.engine.file_names import DIFFERENCES, LABEL_MARK, find_twins, tell_each
from convmae.engine.images import list_images, open_image, upright
from convmae.segmentation.config import SegmentationDataOptions

IGNORE = 255  # the label of a pixel that neither trains nor counts
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # lossless: JPEG would change class indices


class Pair(NamedTuple):
    """A picture and its label map, or the folders of them."""

    image: Path
    label: Path


def read_classes(options: SegmentationDataOptions) -> list[str]:
    """Returns the class names, "other" left out.

    A list is a text file with one name a line, or index, tab, name, or a table with the columns Idx and Name as ADE20K's
    objectInfo150.txt; ``ade20k`` stands for the 150 names of ADE20K where the data folder has no list of its own.
    Raises UserError if the file is missing, empty, no text, out of order, or longer than 8-bit label maps can hold, and if it
    has a name twice.
    """
    own = Path(options.root) / "classes.txt"
    if options.classes == "ade20k" and not own.is_file():
        from convmae.segmentation.mmseg_parts import ADE20KDataset  # here, because mmseg takes seconds to import

        return list(ADE20KDataset.METAINFO["classes"])
    path = own if options.classes in ("", "ade20k") else Path(options.classes)
    if not path.is_file():
        raise UserError(
            f"No class list at {path}; expected a text file with one class name a line. Set data.root to the data, "
            "data.classes to such a file, or to ade20k for its 150 classes."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # with the mark that Windows' editors begin a file with, or without
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8.") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = 1 if options.reduce_zero_label else 0
    names = _strip_indices(_from_table(lines), first, path)
    largest = IGNORE - first
    if not 2 <= len(names) <= largest:
        raise UserError(
            f"{path} names {len(names)} classes; expected 2 to {largest} (8-bit label maps, {IGNORE} is ignored)."
        )
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice:
        raise UserError(f"{path} names the class {twice!r} more than once; expected each name once.")
    return names


def split_folders(options: SegmentationDataOptions, split: str) -> Pair:
    """Returns the folders of pictures and of label maps of a split, "training" or "validation"."""
    root = Path(options.root)
    if split == "training":
        return Pair(root / options.train_images, root / options.train_labels)
    return Pair(root / options.val_images, root / options.val_labels)


def find_pairs(images: Path, labels: Path, report: Report = refuse) -> list[Pair]:
    """Returns the pictures under ``images`` with the label maps of the same relative path (suffix aside) under ``labels``.

    Reports pictures and label maps without a partner; raises UserError for a missing or empty folder.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(
                f"No folder {folder}; expected the ADE20K layout (images/training, images/validation, annotations/training, "
                "annotations/validation). Set data.root, or data.train_images and its like."
            )
    image_of = _by_stem(list_images(images), images, report)
    label_of = _by_stem([path for path in list_images(labels) if path.suffix.lower() in LABEL_SUFFIXES], labels, report)
    if not label_of:
        raise UserError(f"{labels} holds no label map; expected lossless ones: {', '.join(LABEL_SUFFIXES)}.")
    unlabelled, unpictured = sorted(image_of.keys() - label_of.keys()), sorted(label_of.keys() - image_of.keys())
    why = _how_to_pair(unlabelled, unpictured)
    for stem in unlabelled:
        message = f"{image_of[stem]} has no label map; expected {labels / stem}.png. {why[stem]}"
        report(Fault("pictures without a label map", message))
    why = _how_to_pair(unpictured, unlabelled)
    for stem in unpictured:
        message = f"{label_of[stem]} has no picture in {images}. {why[stem]}"
        report(Fault("label maps without a picture", message))
    return [Pair(image_of[stem], label_of[stem]) for stem in sorted(image_of.keys() & label_of.keys())]


def _how_to_pair(alone: list[str], others: list[str]) -> dict[str, str]:
    """Returns what to do with each name without a partner; another that differs from it in a known way may be the one."""
    told = tell_each(find_twins(alone, others, (*DIFFERENCES, LABEL_MARK)))
    how = "Pictures and label maps pair by name"
    return {
        stem: f"{len(alone)} are alone, {told[stem]} {how}: rename one."
        if stem in told
        else f"{how}: add or remove the file."
        for stem in alone
    }


def check_mode(path: Path, mode: str) -> None:
    """Raises Fault unless a label map has one 8-bit channel, by Pillow's name of its mode."""
    if mode not in ("L", "P", "1"):
        kind = "16- or 32-bit" if mode.startswith(("I", "F")) else "colour"
        raise Fault(
            f"{kind} label maps",
            f"{path} is a {kind} label map (mode {mode}); expected one 8-bit channel with a class index a pixel (mode L, or P "
            "whose palette indices are the classes). Convert it.",
        )


def check_size(pair: Pair, label: tuple[int, int], image: tuple[int, int]) -> None:
    """Raises Fault unless the label map has its picture's width and height."""
    if label != image:
        raise Fault(
            "label maps of another size than their picture",
            f"{pair.label} is {label[0]} x {label[1]} pixels; expected {image[0]} x {image[1]} as its picture {pair.image} "
            "has, turned as its EXIF data says. Export the label map at the picture's size.",
        )


def read_label(path: Path, num_classes: int, reduce_zero_label: bool) -> np.ndarray:
    """Returns a label map as uint8 [H, W] with classes 0..num_classes - 1 and IGNORE.

    Raises Fault for a colour, 16-bit or truncated file and for a label beyond the class list.
    """
    try:
        with open_image(path) as image:
            check_mode(path, image.mode)
            raw = np.array(upright(image), dtype=np.uint8)
    except Fault:
        raise
    except UserError as error:
        raise unreadable_label(error) from None
    first = 1 if reduce_zero_label else 0
    counts = np.bincount(raw.ravel(), minlength=256)
    beyond = np.flatnonzero(counts[num_classes + first : IGNORE]) + num_classes + first
    if beyond.size:
        raise Fault(
            "labels beyond the class list",
            f"{path} holds label {beyond[-1]}; expected {first}..{num_classes + first - 1} for the {num_classes} classes of "
            f"the list{', 0 for other' if first else ''} and {IGNORE} for ignored. Correct the file or the class list"
            + (" (if label 0 is a class, set data.reduce_zero_label=false)." if first else "."),
        )
    # uint8 arithmetic wraps, so 0 (other) becomes 255, which is IGNORE.
    return np.where(raw == IGNORE, np.uint8(IGNORE), raw - np.uint8(first))


def unreadable_label(error: UserError) -> Fault:
    """Returns the fault of a label map that is no picture or is cut off."""
    return Fault("unreadable label maps", str(error))


def _from_table(lines: list[str]) -> list[str]:
    """Returns index, tab, name of each line below a head that names such columns; other lists as they are."""
    head = lines[0].split("\t") if lines else []
    if not {"Idx", "Name"} <= set(head):
        return lines
    index, name = head.index("Idx"), head.index("Name")
    rows = [line.split("\t") for line in lines[1:]]
    return [f"{row[index]}\t{row[name]}" for row in rows if len(row) == len(head)]


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


def _by_stem(paths: list[Path], folder: Path, report: Report) -> dict[str, Path]:
    """Maps relative paths without suffix to files; two files of one stem are a fault."""
    named: dict[str, Path] = {}
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in named:
            message = f"{path} and {named[stem]} differ in suffix only; expected one file a name. Remove one."
            report(Fault("files that differ in suffix only", message))
        named[stem] = path
    return named
