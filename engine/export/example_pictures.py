"""Pictures that a graph is compared with PyTorch on: a user's, or drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.faults import refuse
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import read_image, to_tensor
from convmae.engine.pictures.reading import Reading
from convmae.engine.pictures.scenes import draw_scene
from convmae.engine.shards.places import place

MOST = 16  # pictures that int8 is calibrated on


def example_pictures(
    folder: Path | None, sizes: Sequence[tuple[int, int]], reading: Reading
) -> list[NDArray[np.uint8]]:
    """Returns a picture [height, width, C] at each size, resized from those of a folder in turn; without sizes as they are.

    Raises UserError for a folder without pictures.
    """
    if folder is None:
        drawn = [draw_scene(0, "export", number).image for number in range(len(sizes))]
        pictures = [_with_channels(one, reading.channels) for one in drawn]
    else:
        if not place(folder).is_dir():
            raise UserError(f"There is no folder {folder}; expected pictures for --pictures.")
        paths = list_images(folder, refuse)
        count = min(len(paths), len(sizes) or MOST)
        spread = [paths[number * len(paths) // count] for number in range(count)]
        pictures = [to_tensor(read_image(path, reading)).permute(1, 2, 0).contiguous().numpy() for path in spread]
    if not sizes:
        return pictures
    return [_resized(pictures[number % len(pictures)], size) for number, size in enumerate(sizes)]


def _with_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[:, :, np.arange(channels) % 3])


def _resized(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    bands = [Image.fromarray(np.ascontiguousarray(band)).resize((width, height)) for band in image.transpose(2, 0, 1)]
    return np.stack([np.asarray(band) for band in bands], 2)
