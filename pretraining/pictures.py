"""What a masked autoencoder was shown and what it made of it, as pictures."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from convmae.engine.drawing import column, row
from convmae.engine.images import IMAGENET_MEAN, IMAGENET_STD
from convmae.pretraining.patches import pad_to_patches, patch_statistics, patchify, unpatchify

PANEL = 288  # pixels; smaller pictures are enlarged to this height, so that the captions can be read
GREY = 0.62  # of removed patches, 0..1


def reconstruction_strip(image: Tensor, mask: Tensor, prediction: Tensor, norm_pix: bool) -> Image.Image:
    """Returns input, visible patches, reconstruction and prediction alone side by side; a row for each group.

    image: [3, H, W], normalised as ImageNet's; mask: [L] or [G, L], 0 kept, 1 removed; prediction: [L, p*p*3] or
    [G, L, p*p*3], of every patch (``predict="all"``). Where ``norm_pix``, the prediction is of pixels that were normalised
    patch by patch, which holds neither brightness nor contrast: the input's own are put back, and the captions say so.
    """
    masks, predictions = mask.reshape(-1, mask.shape[-1]), prediction.reshape(-1, *prediction.shape[-2:])
    note = ", each with the input's own mean and contrast" if norm_pix else ""
    rows = []
    for group, (removed, predicted) in enumerate(zip(masks, predictions, strict=True)):
        which = f", group {group + 1} of {len(masks)}" if len(masks) > 1 else ""
        visible = f"visible: {1 - removed.float().mean():.0%} of the patches{which}"
        captions = ["input", visible, "reconstruction", "prediction of every patch"]
        if group == 0:
            captions[2] += f": visible patches, and predictions of the others{note}"
            captions[3] += note
        everything = torch.ones_like(removed)
        panels = [
            image,
            hide_removed(image, removed),
            fill_in(image, removed, predicted, norm_pix),
            fill_in(image, everything, predicted, norm_pix),
        ]
        rows.append(row([_to_picture(panel) for panel in panels], captions))
    return column(rows)


def fill_in(image: Tensor, mask: Tensor, prediction: Tensor, norm_pix: bool) -> Tensor:
    """Returns ``image`` [3, H, W] with its removed patches replaced by their predictions, in the same normalisation.

    mask: [L], 1 removed; prediction: [L, p*p*3]. Where ``norm_pix``, each prediction is scaled by the deviation of the
    input's patch and shifted by its mean: the inverse of what the target was made by.
    """
    patches = _patches(image)
    predicted = prediction.to(patches)
    if norm_pix:
        mean, deviation = patch_statistics(patches)
        predicted = predicted * deviation + mean
    return _image(torch.where(mask.bool()[:, None], predicted, patches), image)


def hide_removed(image: Tensor, mask: Tensor) -> Tensor:
    """Returns ``image`` [3, H, W] with its removed patches grey; mask: [L], 1 removed."""
    patches = _patches(image)
    grey = ((GREY - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).to(patches)
    blank = grey.repeat(patches.shape[1] // 3).expand_as(patches)
    return _image(torch.where(mask.bool()[:, None], blank, patches), image)


def _patches(image: Tensor) -> Tensor:
    return patchify(pad_to_patches(image[None]))[0]


def _image(patches: Tensor, like: Tensor) -> Tensor:
    return unpatchify(patches[None], *like.shape[1:])[0]


def _to_picture(image: Tensor) -> Image.Image:
    """A normalised [3, H, W] as a picture at least PANEL pixels high."""
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    pixels = ((image.detach().cpu().float() * std + mean) * 255).round().clamp(0, 255).byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scale = max(1.0, PANEL / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)
