"""Where pictures and label maps lie, and how a label map is read."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, Report, as_fault, refuse
from convmae.engine.pictures.file_names import DIFFERENCES, LABEL_MARK, find_twins, tell_each
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import open_image
from convmae.engine.pictures.orientation import upright
from convmae.engine.pictures.reading import MAX_PIXELS
from convmae.engine.shards.places import place
from convmae.segmentation.config import SegmentationDataOptions

IGNORE = 255  # the label of a pixel that neither trains nor counts
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # lossless: JPEG would change class indices
_USUAL = {*LABEL_SUFFIXES, ".jpg", ".jpeg", ".webp", ".ppm"}  # what pictures are most often kept as


class Pair(NamedTuple):
    """A picture and its label map, or the folders of them."""

    image: Path
    label: Path


def split_folders(options: SegmentationDataOptions, split: str) -> Pair:
    """Returns the folders of pictures and of label maps of a split, "training" or "validation"."""
    root = place(options.root)
    if split == "training":
        return Pair(place(root / options.train_images), place(root / options.train_labels))
    return Pair(place(root / options.val_images), place(root / options.val_labels))


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
    image_of = _by_stem(_without_sources(list_images(images, report), images, report), images, report)
    others = list_images(labels, report)
    label_of = _by_stem([path for path in others if path.suffix.lower() in LABEL_SUFFIXES], labels, report)
    if not label_of:
        raise UserError(
            f"{labels} holds no label map; expected lossless ones: {', '.join(LABEL_SUFFIXES)}. Of another ending is "
            f"{others[0].name}, for one: JPEG changes class indices, so export anew rather than rename or convert."
        )
    lossy = {path.relative_to(labels).with_suffix("").as_posix(): path for path in others}
    unlabelled, unpictured = sorted(image_of.keys() - label_of.keys()), sorted(label_of.keys() - image_of.keys())
    why = _how_to_pair(unlabelled, unpictured)
    for stem in unlabelled:
        message = f"{image_of[stem]} has no label map; expected {labels / stem}.png. {why[stem]}"
        if stem in lossy:
            message = (
                f"{image_of[stem]} has no label map: {lossy[stem]} has another ending than {', '.join(LABEL_SUFFIXES)}. JPEG "
                "changes class indices, so export it anew as PNG rather than rename or convert it."
            )
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


def read_label(path: Path, num_classes: int, reduce_zero_label: bool, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns a label map as uint8 [H, W] with classes 0..num_classes - 1 and IGNORE.

    Raises Fault for a colour, 16-bit or truncated file and for a label beyond the class list.
    """
    values, _ = read_values(path, max_pixels)
    check_values(path, count_values(values), num_classes, reduce_zero_label)
    # uint8 arithmetic wraps, so 0 (other) becomes 255, which is IGNORE.
    return np.where(values == IGNORE, np.uint8(IGNORE), values - np.uint8(reduce_zero_label))


def read_values(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[np.uint8], list[int]]:
    """Returns what stands in a label map, uint8 [H, W], and its palette (r, g, b, r, g, b, ...), empty where it has none.

    Raises Fault for a colour, 16-bit, JPEG-compressed or truncated file.
    """
    try:
        with open_image(path, max_pixels) as image:
            check_mode(path, image.mode)
            if image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg":
                message = (
                    f"{path} is compressed as JPEG, whatever its ending: indices have changed; export it anew as PNG."
                )
                raise Fault("label maps that are JPEG inside", message)
            values = np.array(upright(image), dtype=np.uint8)
            return values, (image.getpalette() or []) if image.mode == "P" else []
    except Fault:
        raise
    except UserError as error:
        raise unreadable_label(error) from None


def count_values(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns how many pixels of a label map [H, W] have each value [256]; NumPy would take eight bytes for each pixel."""
    return np.array(Image.fromarray(values).histogram(), np.int64)


def check_values(path: Path, counts: NDArray[np.int64], num_classes: int, reduce_zero_label: bool) -> None:
    """Raises Fault where a label map with these pixels of each value [256] has a label beyond the class list."""
    first = int(reduce_zero_label)
    beyond = np.flatnonzero(counts[num_classes + first : IGNORE]) + num_classes + first
    if beyond.size:
        raise Fault(
            "labels beyond the class list",
            f"{path} holds label {beyond[-1]}; expected {first}..{num_classes + first - 1} for the {num_classes} classes of "
            f"the list{', 0 for other' if first else ''} and {IGNORE} for ignored. Correct the file or the class list.",
        )


def unreadable_label(error: UserError) -> Fault:
    """Returns the fault of a label map that is no picture or is cut off."""
    return as_fault(error, "unreadable label maps")


def _without_sources(paths: list[Path], folder: Path, report: Report) -> list[Path]:
    """Returns the pictures without files of rarer formats beside one of their name: its source, its depth, another copy."""
    names = {path.with_suffix("") for path in paths if path.suffix.lower() in _USUAL}
    kept = [path for path in paths if path.suffix.lower() in _USUAL or path.with_suffix("") not in names]
    if len(kept) < len(paths):
        first = next(path for path in paths if path not in kept)
        message = f"{folder}: {len(paths) - len(kept)} files passed over beside a picture of the same name, as {first}"
        report(Fault("folders with files beside a picture of the same name", message, Effect.NOTE))
    return kept


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
