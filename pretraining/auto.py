"""How long, in what batches and at what rate to pretrain, from the number and the size of the pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convmae.engine.config import from_tree, to_yaml
from convmae.engine.errors import UserError
from convmae.engine.faults import spread
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import look_at
from convmae.engine.pictures.reading import Reading
from convmae.engine.safe_yaml import parse_yaml
from convmae.pretraining.config import PretrainingConfig, PretrainingModelOptions
from convmae.pretraining.masking import group_count

LOOKED_AT = 200  # pictures whose size is asked
STEPS = 4000  # at least: so many made an encoder of 451 pictures pay, 176 were few for 7,500 (docs/study.md)
EPOCHS = 200  # at least: the published short schedule of one view of a picture, which is 50 of FastConvMAE's four
PER_EPOCH = 64  # batches at least, as many steps beat large batches
VIEWS, RATE = 32, 4e-4  # of the smallest batch
PUBLISHED = 1.5e-4  # rate for each 256 views of large batches
WARMUP, WARMED = 40, 200  # epochs and steps: the longer of the two, and no more than a tenth of the run
SMALLEST = 0.01  # part of a picture that a crop covers at least
TOGETHER = (("optim.lr", "optim.lr_batch"), ("schedule.epochs", "schedule.steps", "schedule.warmup"))


def median_side(pictures: Sequence[Path], reading: Reading) -> float:
    """Returns the median of the pictures' shorter sides in pixels, of some if they are many.

    Raises UserError where none of these can be read.
    """
    sides, failure = list[int](), None
    for path in spread(pictures, LOOKED_AT):
        try:
            sides.append(min(look_at(path, reading).size))
        except UserError as error:  # which is the run's to skip, or to stop at
            failure = error
    if not sides and failure:
        raise failure
    return statistics.median(sides)


def fit(config: PretrainingConfig, pictures: int, side: float, given: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the options that suit so many pictures of such a shorter side, in pixels, by their names.

    They are of the data, the optimiser and the schedule; what the model is made of is never among them. ``given``: options
    that the user set, which stay. The recipe's batch and its smallest crop are the largest: where pictures are large, crops
    may be so small that none is made smaller.
    """
    model, data = config.model, config.data
    own = {one.partition("=")[0] for one in given}
    views = _views(model)
    batch = data.batch_size
    if "data.batch_size" not in own:
        batch = min(max(1, VIEWS // views), batch)
        while 2 * batch <= min(data.batch_size, pictures / PER_EPOCH / views):
            batch *= 2
    epochs = max(-(-EPOCHS // views), -(-STEPS * batch // pictures))
    crop = min(data.crop_scale, max(SMALLEST, (model.img_size / side) ** 2))
    fitted = {
        "data.batch_size": batch,
        "data.crop_scale": float(f"{crop:.2g}"),
        "optim.lr": float(f"{max(RATE, PUBLISHED * batch * views / 256):.3g}"),
        "optim.lr_batch": 0,
        "schedule.epochs": epochs,
        "schedule.warmup": min(epochs / 10, max(WARMUP, float(f"{WARMED * batch / pictures:.3g}"))),
    }
    taken = own.union(*(names for names in TOGETHER if own & set(names)))
    return {name: value for name, value in fitted.items() if name not in taken}


def _views(model: PretrainingModelOptions) -> int:
    """Returns how many views of a picture a step reconstructs."""
    if model.method != "fastconvmae":
        return 1
    try:
        return model.groups or group_count(model.mask_ratio)
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def choose(config: PretrainingConfig, given: Sequence[str]) -> tuple[list[str], str]:
    """Returns the options that suit the pictures of a run as `fit` does, and what was chosen in words.

    Raises UserError where there are no pictures, or none can be read.
    """
    pictures = list_images(config.data.root, lambda fault: None, once=True)  # the run itself tells of faults
    side = median_side(pictures, config.data.reading(config.model.in_chans))
    options = [f"{name}={value:g}" for name, value in fit(config, len(pictures), side, given).items()]
    size = f"{len(pictures):,} pictures whose shorter side is {side:g} pixels at the median"
    return options, f"chosen for {size}: {' '.join(options) or 'nothing, as all of it was given'}"


def fitted(config: PretrainingConfig, given: Sequence[str]) -> tuple[PretrainingConfig, list[str]]:
    """Returns a run's tree with the options that `choose` gives, and what was chosen in words."""
    options, said = choose(config, given)
    return from_tree(PretrainingConfig, parse_yaml(to_yaml(config), "the recipe"), options), [said]
