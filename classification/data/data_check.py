"""All that is in class folders and all that is wrong with them; training refuses at the first faults instead."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from convmae.classification.config import FolderOptions
from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.pictures.picture_check import PictureCheck, read_all
from convmae.engine.probes.class_folders import (
    check_repeated_pictures,
    check_same_folders,
    check_shared_pictures,
    class_folders,
    class_names,
    find_labelled,
)
from convmae.engine.shards.places import place
from convmae.engine.text import distinct


@dataclass
class ClassCheck(PictureCheck):
    """A split of class folders: each picture with its label, the place of its class among ``folders``."""

    folders: list[str] = field(default_factory=list)
    pictures: list[tuple[Path, int]] = field(default_factory=list)


def check_data(options: FolderOptions, count: int = 0, channels: int = 3) -> list[ClassCheck]:
    """Returns the training and the validation split with all faults, having read ``count`` pictures of each (0: all)."""
    training, validation = (
        _check_split(name, options, part, count, channels)
        for name, part in (("training", options.train), ("validation", options.val))
    )
    options.let_skip(training.faults, len(training.paths), count)
    if training.folders and validation.folders:
        try:
            check_same_folders(training.folder, training.folders, validation.folder, validation.folders)
        except UserError as error:
            validation.faults.append(Fault("class folders in one split alone", str(error)))
        contents = None if count else {**training.contents, **validation.contents}
        check_shared_pictures(training, validation, validation.faults.append, contents)
    return [training, validation]


def _check_split(name: str, options: FolderOptions, part: str, count: int, channels: int) -> ClassCheck:
    root = place(options.root)
    split = ClassCheck(name, place(root / part), options.reading(channels))
    report = split.faults.append
    try:
        split.folders = class_folders(split.folder)
        split.pictures = find_labelled(split.folder, split.folders, report)
        names = class_names(root / "classes.txt", split.folders, report)
    except UserError as error:
        report(Fault("class folders that can't be used", str(error)))
        return split
    split.paths = [path for path, _ in split.pictures]
    counts = Counter(label for _, label in split.pictures)
    split.classes = {name: counts[label] for label, name in enumerate(distinct(names))}
    read_all(split, count)
    check_repeated_pictures(split.pictures, split.folders, report, None if count else split.contents)
    return split
