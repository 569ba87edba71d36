"""What a caller may give as pictures, and one picture of each kind as the models take it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.log import log
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import Picture, read_image
from convmae.engine.pictures.reading import Reading
from convmae.engine.shards.places import place

One: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any] | torch.Tensor"
Given: TypeAlias = "One | Iterable[One]"
ORDERS = ("rgb", "bgr")
_EXPECTED = (
    "a path, a folder, a PIL picture, a uint8 array [H, W, C], a tensor [C, H, W] (uint8, or floats from 0 to 1), or a list or "
    "generator of these"
)


@dataclass(frozen=True)
class Source:
    """One picture as it was given: ``name`` says which in messages; ``bgr``: an array's or tensor's channels are B, G, R."""

    name: str
    given: One
    reading: Reading
    bgr: bool = False

    @property
    def path(self) -> Path | None:
        """The picture's file, if it is one."""
        return self.given if isinstance(self.given, Path) else None

    def read(self) -> Picture:
        """Returns the picture. Raises UserError naming one that can't be read, or is of the wrong kind, shape or range."""
        if self.path is not None:
            return read_image(self.path, self.reading)
        if isinstance(self.given, Image.Image):
            return self._of_pil(self.given)
        values = self._of_tensor(self.given) if isinstance(self.given, torch.Tensor) else self._of_array(self.given)
        return self._of_bytes(values)

    def _of_pil(self, image: Image.Image) -> Picture:
        """As it stands, whatever its EXIF data say; what is transparent becomes white, as of a file."""
        if image.mode.startswith(("I", "F")):
            raise self._wrong(
                f"is a PIL picture of mode {image.mode}", "8 bits a channel; a path is scaled as data.range says"
            )
        if self.reading.channels not in (1, 3):
            return self._of_bytes(np.asarray(image))
        if image.mode in ("P", "LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if self.reading.channels == 1:
            return torch.from_numpy(np.array(image.convert("L")))[None]
        return image.convert("RGB")

    def _of_array(self, array: Any) -> NDArray[np.uint8]:
        if array.dtype != np.uint8:
            raise self._wrong(f"is an array of {array.dtype}{_range(array)}", "uint8, 0 to 255")
        values: NDArray[np.uint8] = array[..., None] if array.ndim == 2 else array
        return values

    def _of_tensor(self, tensor: torch.Tensor) -> NDArray[np.uint8]:
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            if tensor.numel() and not bool(((tensor >= 0) & (tensor <= 1)).all()):
                raise self._wrong(
                    f"is a tensor of {tensor.dtype}{_range(tensor.float().numpy())}", "floats from 0 to 1"
                )
            tensor = (tensor.float() * 255).round().to(torch.uint8)
        elif tensor.dtype != torch.uint8:
            raise self._wrong(f"is a tensor of {tensor.dtype}", "uint8, or floats from 0 to 1")
        if tensor.ndim == 2:
            tensor = tensor[None]
        return tensor.movedim(0, -1).numpy() if tensor.ndim == 3 else tensor.numpy()

    def _of_bytes(self, values: NDArray[np.uint8]) -> Picture:
        """Bytes [H, W, C] as the model's channels."""
        wanted = self.reading.channels
        if values.ndim == 2:
            values = values[..., None]
        axes = "[C, H, W]" if isinstance(self.given, torch.Tensor) else "[H, W, C]"
        found = "x".join(map(str, getattr(self.given, "shape", values.shape)))
        if values.ndim != 3 or values.shape[2] not in ((1, 3) if wanted == 3 else (wanted,)):
            channels = "3 channels, or 1 of grey" if wanted == 3 else f"{wanted} channel{'s' * (wanted > 1)}"
            turned = values.ndim == 3 and wanted in values.shape[:2]
            hint = "; its axes seem to be in another order" if turned else ""
            raise self._wrong(f"has the shape {found}", f"{axes} with {channels}{hint}")
        if 0 in values.shape:
            raise self._wrong(f"has the shape {found}", "at least one pixel")
        pixels = values.shape[0] * values.shape[1]
        if pixels > self.reading.max_pixels:
            raise self._wrong(
                f"has {pixels:,} pixels", f"data.max_pixels={self.reading.max_pixels:,} at most; raise it in load"
            )
        if wanted != 3:
            return torch.from_numpy(values.transpose(2, 0, 1).copy())
        values = np.broadcast_to(values, (*values.shape[:2], 3))
        return Image.fromarray(np.ascontiguousarray(values[..., ::-1] if self.bgr else values))

    def _wrong(self, found: str, expected: str) -> UserError:
        return UserError(f"{self.name} {found}; expected {expected}.")


def sources(pictures: Given, reading: Reading, channels: str = "rgb") -> Iterator[Source]:
    """Yields every picture that is given, files of folders among them.

    Raises UserError for what is no picture, for a folder without any, and for an order of channels other than ``ORDERS``.
    """
    if channels not in ORDERS:
        raise UserError(f"channels is {channels!r}; expected 'rgb' or 'bgr'.")
    if channels == "bgr" and reading.channels != 3:
        raise UserError(f"channels is 'bgr', but the model takes {reading.channels} channels; expected 'rgb'.")
    many = not _is_one(pictures) or (isinstance(pictures, (np.ndarray, torch.Tensor)) and pictures.ndim == 4)
    if many and not isinstance(pictures, Iterable):
        raise UserError(f"pictures is a {type(pictures).__name__}; expected {_EXPECTED}.")
    for number, one in enumerate(pictures if many else [pictures]):  # type: ignore[arg-type]
        name = f"pictures[{number}]" if many else "the picture"
        if not _is_one(one):
            raise UserError(f"{name} is a {type(one).__name__}; expected {_EXPECTED}.")
        if isinstance(one, (str, os.PathLike)):
            path = place(os.fspath(one))
            files = list_images(path, _say) if path.is_dir() else [path]
            yield from (Source(str(file), file, reading) for file in files)
        else:
            yield Source(name, one, reading, channels == "bgr")


def _is_one(given: object) -> bool:
    return isinstance(given, (str, os.PathLike, Image.Image, np.ndarray, torch.Tensor))


def _say(fault: Fault) -> None:
    """Warns of what of a folder is passed over."""
    log.warning(str(fault))


def _range(values: NDArray[Any]) -> str:
    if not values.size or values.dtype.kind not in "iuf":
        return ""
    return f" from {np.min(values):g} to {np.max(values):g}"
