"""All that is in a folder of pictures and all that is wrong with it; training refuses at the first faults instead."""

from __future__ import annotations

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.pictures.duplicates import check_repeated
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.picture_check import PictureCheck, read_all
from convmae.engine.shards.places import place
from convmae.pretraining.config import PretrainingDataOptions
from convmae.pretraining.data.label_maps import check_label_maps


def check_data(options: PretrainingDataOptions, count: int = 0, channels: int = 3) -> list[PictureCheck]:
    """Returns the pictures with all faults, having read ``count`` of them (0: all)."""
    split = PictureCheck("pretraining", place(options.root), options.reading(channels))
    try:
        split.paths = list_images(options.root, split.faults.append, once=True)
    except UserError as error:
        split.faults.append(Fault("folders that can't be used", str(error)))
        return [split]
    check_label_maps(split.paths, split.faults.append)
    read_all(split, count)
    check_repeated(split.paths, split.faults.append, contents=None if count else split.contents)
    options.let_skip(split.faults, len(split.paths), count)
    return [split]
