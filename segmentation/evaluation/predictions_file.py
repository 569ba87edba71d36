"""The file of what a run predicted: every picture's label map, and how it was counted."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.files import save_atomically
from convmae.engine.text import visible
from convmae.segmentation.evaluation.boundary import BoundaryScores
from convmae.segmentation.evaluation.scores import Result

_INDEX = "counts.json"


class Predictions(NamedTuple):
    """The class list, and the results of all pictures; their paths are relative to the folder of pictures."""

    classes: list[str]
    pictures: list[Result]


def write_predictions(path: Path, classes: list[str], pictures: Sequence[Result], folder: Path) -> Path:
    """Writes ``NAME.png`` of each picture in ``folder``, class indices from 0, and their counts in a zip; returns its path."""
    names = [Path(result.path).relative_to(folder).as_posix() for result in pictures]
    index = [
        {
            "picture": name,
            "cells": result.cells.tolist(),
            "pixels": result.counts.tolist(),
            "boundary": dict(zip(result.boundary.labels.tolist(), result.boundary.scores.tolist(), strict=True)),
        }
        for name, result in zip(names, pictures, strict=True)
    ]

    def write(file: io.BufferedWriter) -> None:
        with zipfile.ZipFile(file, "w") as archive:  # PNG is compressed already
            for name, result in zip(names, pictures, strict=True):
                archive.writestr(_member(name), result.label_map)
            content = json.dumps({"classes": classes, "pictures": index}, separators=(",", ":"))
            archive.writestr(_INDEX, content, zipfile.ZIP_DEFLATED)

    save_atomically(write, path)
    return path


def read_predictions(path: Path) -> Predictions:
    """Reads what ``write_predictions`` wrote. Raises UserError for a file that is missing or was not written by it."""
    if not path.is_file():
        raise UserError(f"There is no {path}; expected the label maps of a run. Test its weights again.")
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read(_INDEX))
            pictures = [
                Result(
                    entry["picture"],
                    np.array(entry["cells"], np.int32),
                    np.array(entry["pixels"], np.int32),
                    BoundaryScores(
                        np.array(list(entry["boundary"]), dtype=np.uint8), np.array(list(entry["boundary"].values()))
                    ),
                    archive.read(_member(entry["picture"])),
                )
                for entry in content["pictures"]
            ]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} doesn't hold the label maps of a run: {error!r}. Test its weights again.") from None
    return Predictions(content["classes"], pictures)


def decode(label_map: bytes) -> NDArray[np.uint8]:
    """Returns a label map [H, W] of the file."""
    return np.array(Image.open(io.BytesIO(label_map)))


def _member(name: str) -> str:
    return visible(str(PurePosixPath(name).with_suffix(".png")))  # a zip file's names are UTF-8
