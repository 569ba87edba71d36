"""Pictures in class folders, as tensors for training and for testing."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch.utils.data import Dataset
from torchvision.transforms import v2

from convmae.classification.config import AugmentationOptions, FolderOptions
from convmae.classification.erasing import draw_erasing
from convmae.classification.mixing import draw_mix
from convmae.engine.errors import UserError
from convmae.engine.files import read_text
from convmae.engine.images import IMAGENET_MEAN, list_images, read_image, to_tensor
from convmae.engine.log import log

BICUBIC = v2.InterpolationMode.BICUBIC

# timm passes over parts of a description that it does not know.
_RAND_AUGMENT = re.compile(
    r"rand(-(m\d+|n[1-9]\d*|p(0(\.\d+)?|1)|mstd\d+(\.\d+)?|mmax[1-9]\d*|inc[01]|t(weights|3aw?)))*"
)


@dataclass
class ClassFolder:
    """One split: its class folders in order, each picture with its label, and the classes' names."""

    root: Path
    folders: list[str]
    pictures: list[tuple[Path, int]]
    classes: list[str]

    def describe(self) -> str:
        """Returns one line for the log and the report."""
        return f"{len(self.pictures)} pictures of {len(self.classes)} classes, in {self.root}"


def read_splits(options: FolderOptions) -> tuple[ClassFolder, ClassFolder]:
    """Returns the training and the validation split and logs what was found.

    Raises UserError for folders that are missing, hold no pictures, or name other classes in one split than in the other.
    """
    train, val = read_split(options, options.train), read_split(options, options.val)
    only = sorted(set(train.folders) ^ set(val.folders))
    if only:
        holder, other = (train, val) if only[0] in train.folders else (val, train)
        raise UserError(
            f"{holder.root} has the class folder {only[0]!r}, {other.root} has not"
            + (f" (and {len(only) - 1} more differ)" if len(only) > 1 else "")
            + "; expected the same classes in both."
        )
    return few_labels(train, options.per_class) if options.per_class else train, val


def few_labels(split: ClassFolder, per_class: int) -> ClassFolder:
    """Returns a split with at most so many pictures of each class, drawn the same way in every run, and logs it."""
    drawn = random.Random(0)
    pictures = []
    for label in range(len(split.classes)):
        own = [picture for picture in split.pictures if picture[1] == label]
        pictures += sorted(drawn.sample(own, min(per_class, len(own))))
    log.info(f"data: {len(pictures)} of the training pictures are used, at most {per_class} of each class")
    return replace(split, pictures=pictures)


def read_split(options: FolderOptions, part: str) -> ClassFolder:
    """Returns a split and logs what was found. Raises UserError unless it has two classes or more, each with pictures."""
    root = Path(options.root)
    folder = root / part
    if not root.is_dir():
        raise UserError(f"There is no data folder {root}; expected one with a folder a class in each split.")
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; expected one that holds a folder a class.")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        holds = f"one class folder, {classes[0]!r}" if classes else "no class folders"
        raise UserError(f"{folder} holds {holds}; a classifier needs two or more, one a class.")
    pictures = [(path, label) for label, name in enumerate(classes) for path in list_images(folder / name)]
    found = ClassFolder(folder, classes, pictures, _names(root / "classes.txt", classes))
    log.info(f"data, {part}: {found.describe()}")
    return found


class TrainSet(Dataset):
    """Augmented crops: ``images``, bytes [3, S, S]; ``labels`` []; ``mix`` [4], what ``mixing.mix`` draws from; ``erased``."""

    def __init__(self, split: ClassFolder, options: AugmentationOptions, img_size: int) -> None:
        self.split, self.options = split, options
        steps: list[Any] = [
            v2.RandomResizedCrop(img_size, (options.crop_scale, 1.0), interpolation=BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(options.flip),
        ]
        if options.rand_augment:
            if not _RAND_AUGMENT.fullmatch(options.rand_augment):
                raise UserError(
                    f"augment.rand_augment is {options.rand_augment!r}, which timm does not read; expected a description "
                    "such as rand-m9-mstd0.5-inc1, by m, n, p, mstd, mmax, inc and t (weights, 3a or 3aw)."
                )
            filling = tuple(round(255 * value) for value in IMAGENET_MEAN)
            ways = {"img_mean": filling, "interpolation": Image.Resampling.BICUBIC}
            augment = rand_augment_transform(options.rand_augment, ways)
            for operation in augment.ops:
                if operation.name.startswith("Posterize"):
                    operation.aug_fn = _posterize
            steps.append(augment)
        self.transform = v2.Compose(steps)

    def __len__(self) -> int:
        return len(self.split.pictures)

    def name(self, index: int) -> Path:
        """Returns the file of a picture, for messages."""
        return self.split.pictures[index][0]

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.split.pictures[index]
        image = to_tensor(self.transform(read_image(path)))
        mix = draw_mix(self.options.mixup, self.options.cutmix)
        return {
            "images": image,
            "labels": label,
            "mix": mix,
            "erased": draw_erasing(self.options.erase, *image.shape[1:]),
        }


class EvalSet(Dataset):
    """Centre crops: ``images``, bytes [3, S, S]; ``labels`` [] and ``index`` [], the picture's place in the split."""

    def __init__(self, split: ClassFolder, img_size: int, test_crop: float) -> None:
        self.split = split
        self.transform = v2.Compose(
            [v2.Resize(round(img_size / test_crop), BICUBIC, antialias=True), v2.CenterCrop(img_size)]
        )

    def __len__(self) -> int:
        return len(self.split.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.split.pictures[index]
        image = to_tensor(self.transform(read_image(path)))
        return {"images": image, "labels": label, "index": torch.tensor(index)}


class RandomViews(EvalSet):
    """Random crops, half of them mirrored, in the form of ``EvalSet``: what a linear probe is trained on in MAE."""

    def __init__(self, split: ClassFolder, img_size: int, crop_scale: float) -> None:
        super().__init__(split, img_size, 1.0)
        crop = v2.RandomResizedCrop(img_size, (crop_scale, 1.0), interpolation=BICUBIC, antialias=True)
        self.transform = v2.Compose([crop, v2.RandomHorizontalFlip()])


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's operation where its strongest leaves a channel no bit, which Pillow refuses: one stays."""
    return ImageOps.posterize(image, min(max(bits, 1), 8))


def _names(path: Path, folders: Sequence[str]) -> list[str]:
    """Returns what class folders are called by lines of folder, tab, name; a folder's own name where no line is of it."""
    if not path.is_file():
        return list(folders)
    pairs = (line.split("\t", 1) for line in read_text(path).split("\n"))
    named = {_composed(pair[0].strip()): pair[1].strip() for pair in pairs if len(pair) == 2}
    if not any(_composed(folder) in named for folder in folders):
        log.warning(
            f"{path} names none of the class folders, such as {folders[0]!r}, and is not used; expected lines "
            "of folder, tab, name."
        )
    return [named.get(_composed(folder)) or folder for folder in folders]


def _composed(name: str) -> str:
    """Returns a name in the one of Unicode's forms that all its spellings share: macOS writes an umlaut as two characters."""
    return unicodedata.normalize("NFC", name)
