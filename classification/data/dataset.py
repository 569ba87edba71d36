"""Pictures in class folders, as tensors for training and for testing."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch.utils.data import Dataset
from torchvision.transforms import v2

from convmae.classification.config import AugmentationOptions, FolderOptions
from convmae.classification.data.erasing import draw_erasing
from convmae.classification.data.mixing import draw_mix
from convmae.engine.errors import UserError
from convmae.engine.faults import Fault, Tally, log_remarks, refuse_all
from convmae.engine.feeding.pictures import Pictures
from convmae.engine.log import log
from convmae.engine.pictures.images import IMAGENET_MEAN, to_tensor
from convmae.engine.pictures.limits import own_limits
from convmae.engine.pictures.reading import reading_picture
from convmae.engine.pictures.value_ranges import check_ranges
from convmae.engine.probes.class_folders import (
    check_repeated_pictures,
    check_same_folders,
    check_shared_pictures,
    class_folders,
    class_names,
    find_labelled,
)
from convmae.engine.probes.splits import BICUBIC, ClassFolder, EvalSet
from convmae.engine.shards.places import place
from convmae.engine.shares import log_share, take_share

# timm passes over parts of a description that it does not know.
_RAND_AUGMENT = re.compile(
    r"rand(-(m\d+|n[1-9]\d*|p(0(\.\d+)?|1)|mstd\d+(\.\d+)?|mmax[1-9]\d*|inc[01]|t(weights|3aw?)))*"
)


def read_splits(options: FolderOptions, channels: int = 3) -> tuple[ClassFolder, ClassFolder]:
    """Returns the training and the validation split and logs what was found.

    Raises UserError for folders that are missing, hold no pictures, or name other classes in one split than in the other.
    """
    train, val = (read_split(options, part, channels) for part in (options.train, options.val))
    check_same_folders(train.root, train.folders, val.root, val.folders)
    pictures = take_labelled(train, options.share, options.share_seed)
    log_share(len(pictures), len(train.pictures), options.share, options.share_seed)
    train = replace(train, pictures=pictures)
    if options.per_class:
        train = few_labels(train, options.per_class)
    shared = Tally()
    check_shared_pictures(train, val, shared)
    log_remarks(options.val, shared.remarks)
    return train, replace(val, remarks=[*val.remarks, *shared.remarks])


def take_labelled(split: ClassFolder, share: float, seed: int) -> list[tuple[Path, int]]:
    """Returns a share of each class's pictures, as ``engine/shares.py`` draws it."""
    return take_share(
        split.pictures, share, seed, lambda one: one[0].relative_to(split.root).as_posix(), lambda one: one[1]
    )


def few_labels(split: ClassFolder, per_class: int) -> ClassFolder:
    """Returns a split with at most so many pictures of each class, drawn the same way in every run, and logs it."""
    drawn = random.Random(0)
    pictures = []
    for label in range(len(split.classes)):
        own = [picture for picture in split.pictures if picture[1] == label]
        pictures += sorted(drawn.sample(own, min(per_class, len(own))))
    log.info(f"data: {len(pictures)} of the training pictures are used, at most {per_class} of each class")
    return replace(split, pictures=pictures)


def read_split(options: FolderOptions, part: str, channels: int = 3) -> ClassFolder:
    """Returns a split and logs what was found. Raises UserError unless it has two classes or more, each with pictures."""
    root = place(options.root)
    folder = place(root / part)
    if not root.is_dir():
        raise UserError(f"There is no data folder {root}; expected one with a folder a class in each split.")
    faults: list[Fault] = []
    classes = class_folders(folder)
    pictures = find_labelled(folder, classes, faults.append)
    reading = options.reading(channels)
    check_ranges([path for path, _ in pictures], reading, faults.append)
    refuse_all(faults)
    check_repeated_pictures(pictures, classes, faults.append)
    names = class_names(root / "classes.txt", classes, faults.append)
    found = ClassFolder(
        folder,
        classes,
        pictures,
        names,
        reading,
        Tally(faults).remarks,
    )
    log.info(f"data, {part}: {found.describe()}")
    log_remarks(part, found.remarks)
    return found


class TrainSet(Dataset):
    """Augmented crops: ``images``, bytes [C, S, S]; ``labels`` []; ``mix`` [4], what ``mixing.mix`` draws from; ``erased``."""

    def __init__(self, split: ClassFolder, options: AugmentationOptions, img_size: int, keep: str = "none") -> None:
        self.split, self.options = split, options
        self.pictures = Pictures([path for path, _ in split.pictures], split.reading, keep)
        steps: list[Any] = [
            v2.RandomResizedCrop(img_size, (options.crop_scale, 1.0), interpolation=BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(options.flip),
        ]
        if options.rand_augment:
            if split.reading.channels != 3:
                raise UserError(
                    f"augment.rand_augment is for RGB pictures, model.in_chans is {split.reading.channels}; expected it "
                    'empty: augment.rand_augment="".'
                )
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
        _, label = self.split.pictures[index]
        with reading_picture():
            picture = self.pictures.read(index)
        with own_limits():  # Pillow's are for crops, too
            image = to_tensor(self.transform(picture))
        mix = draw_mix(self.options.mixup, self.options.cutmix)
        return {
            "images": image,
            "labels": label,
            "mix": mix,
            "erased": draw_erasing(self.options.erase, *image.shape),
        }


class RandomViews(EvalSet):
    """Random crops, half of them mirrored, in the form of ``EvalSet``: what a linear probe is trained on in MAE."""

    def __init__(self, split: ClassFolder, img_size: int, crop_scale: float) -> None:
        super().__init__(split, img_size, 1.0)
        crop = v2.RandomResizedCrop(img_size, (crop_scale, 1.0), interpolation=BICUBIC, antialias=True)
        self.transform = v2.Compose([crop, v2.RandomHorizontalFlip()])


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's operation where its strongest leaves a channel no bit, which Pillow refuses: one stays."""
    return ImageOps.posterize(image, min(max(bits, 1), 8))
