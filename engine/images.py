"""Pictures from files, whatever their mode."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from convmae.engine.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}


def read_image(path: str | Path) -> Image.Image:
    """Returns a picture as RGB, turned as its EXIF data says. Raises UserError naming a file that is none, or is cut off."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):  # 16 or 32 bits: convert() would clip at 255
                values = np.asarray(image, dtype=np.float64)
                top = 65535.0 if values.max(initial=0) > 255 else 255.0
                return Image.fromarray(np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
            if image.mode in ("P", "LA", "PA", "RGBA"):  # transparent pixels become white, not whatever lies below
                image = image.convert("RGBA")
                ground = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(ground, image)
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} can't be read as a picture ({error}); replace or remove the file.") from None


def list_images(folder: str | Path) -> list[Path]:
    """Returns the pictures in a folder and the folders below it, sorted. Raises UserError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: expected one that holds pictures.")
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not found:
        raise UserError(f"{folder} holds no pictures: expected files ending in {', '.join(sorted(SUFFIXES))}.")
    return sorted(found)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Returns a picture as bytes [3, H, W]."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Returns bytes [B, 3, H, W] as floats with ImageNet's mean and deviation taken out."""
    mean = images.new_tensor(IMAGENET_MEAN, dtype=torch.float32).view(-1, 1, 1) * 255
    std = images.new_tensor(IMAGENET_STD, dtype=torch.float32).view(-1, 1, 1) * 255
    return (images.float() - mean) / std
