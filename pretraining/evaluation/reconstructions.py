"""What a masked autoencoder was shown and what it made of it, as pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from convmae.engine.pictures.images import as_rgb, channel_statistics, normalize, read_image, to_tensor
from convmae.engine.pictures.reading import RGB, Reading
from convmae.pretraining.autoencoder import MaskedAutoencoder
from convmae.pretraining.patches import PATCH, pad_to_patches, patch_statistics, patchify, unpatchify
from convmae.reports.drawing import column, row

PANEL = 320  # pixels; smaller pictures are enlarged to this height, so that the captions can be read
ACROSS = 6  # panels side by side, at most
GREY = 0.62  # of removed patches, 0..1


class Views(NamedTuple):
    """A picture, what a model saw of it and what it made of that; G views, which are complementary if more than one.

    Where ``norm_pix``, the predictions are of pixels normalised patch by patch, which hold neither brightness nor contrast:
    pictures put the input's own back, and say so.
    """

    image: Tensor  # [C, H, W], normalised
    mask: Tensor  # [G, L], 0 kept, 1 removed
    prediction: Tensor  # [G, L, 16 * 16 * C], of every patch
    norm_pix: bool


def load_picture(path: Path, size: int, whole: bool = False, reading: Reading = RGB) -> Tensor:
    """Returns a picture as a model takes it, its shorter side ``size`` pixels: the centre square, or ``whole``; [C, H, W]."""
    resized = v2.functional.resize(read_image(path, reading), [size], v2.InterpolationMode.BICUBIC, antialias=True)
    return normalize(to_tensor(resized if whole else v2.functional.center_crop(resized, [size, size]))[None])[0]


@torch.inference_mode()
def reconstruct(model: MaskedAutoencoder, image: Tensor, mask_ratio: float, seed: int = 0) -> Views:
    """Returns what the model makes of a normalised picture [C, H, W] under a seeded mask.

    Raises:
        ValueError: a ratio that keeps or removes nothing of this picture.
    """
    tokens = math.prod(-(-side // PATCH) for side in image.shape[1:])
    noise = torch.rand(1, tokens, generator=torch.Generator().manual_seed(seed))
    device = next(model.parameters()).device
    out = model(image[None].to(device), mask_ratio, noise.to(device), predict="all")
    return Views(image, out.mask.cpu(), out.pred.float().cpu(), model.norm_pix_loss)


def reconstruction_strip(views: Views) -> Image.Image:
    """Returns the `reconstruction_panels` side by side, each under its caption."""
    return row(*reconstruction_panels(views))


def reconstruction_panels(views: Views) -> tuple[list[Image.Image], list[str]]:
    """Returns input, visible patches, reconstruction and prediction, of the first view, and what is to be said of each.

    The last panel is `put_together` where there are several views, else the prediction of every patch.
    """
    removed, predicted, groups = views.mask[0], views.prediction[0], len(views.mask)
    note = ", each with the input's own mean and contrast" if views.norm_pix else ""
    panels = [views.image, hide_removed(views.image, removed), _reconstruction(views, 0)]
    captions = ["input", f"visible: {_share(views)} of the patches"]
    captions.append(f"reconstruction: visible patches, and predictions of the others{note}")
    if groups > 1:
        captions[1] += f", group 1 of {groups}"
        panels.append(put_together(views))
        captions.append(_together(views))
    else:
        panels.append(fill_in(views.image, torch.ones_like(removed), predicted, views.norm_pix))
        captions.append("prediction of every patch; visible ones are not in the loss")
    return [to_picture(shown) for shown in panels], captions


def group_panels(views: Views) -> list[tuple[list[Image.Image], list[str]]]:
    """Returns pairs of panels and what is to be said of them: of all groups, then of each.

    The first pair is input and `put_together`, a group's are its visible patches and its reconstruction.
    """
    note = ", removed patches with the input's own mean and contrast" if views.norm_pix else ""
    pairs = [([views.image, put_together(views)], ["input", _together(views)])]
    for group, removed in enumerate(views.mask):
        shown = [hide_removed(views.image, removed), _reconstruction(views, group)]
        pairs.append((shown, [f"visible to group {group + 1}", f"reconstruction by group {group + 1}{note}"]))
    return [([to_picture(shown) for shown in panels], captions) for panels, captions in pairs]


def group_sheet(views: Views) -> Image.Image:
    """Returns the `group_panels` beside each other, the second of each pair below the first."""
    pairs = group_panels(views)
    lines = math.ceil(len(pairs) / ACROSS)
    across = math.ceil(len(pairs) / lines)
    rows = [
        row([panels[level] for panels, _ in part], [captions[level] for _, captions in part])
        for part in (pairs[first : first + across] for first in range(0, len(pairs), across))
        for level in (0, 1)
    ]
    return column(rows, f"{len(views.mask)} groups, {_share(views)} of the patches visible to each")


def _reconstruction(views: Views, group: int) -> Tensor:
    return fill_in(views.image, views.mask[group], views.prediction[group], views.norm_pix)


def _share(views: Views) -> str:
    return f"{100 * (1 - views.mask.float().mean()):.0f} %"


def _together(views: Views) -> str:
    others = len(views.mask) - 1
    who = "by the group" if others == 1 else f"the mean of the {others} groups"
    note = ", with the input's own mean and contrast" if views.norm_pix else ""
    return f"put together, predictions only: each patch {who} that did not see it{note}"


def put_together(views: Views) -> Tensor:
    """Returns the picture [C, H, W] whose every patch is the mean of its predictions by the views that did not see it.

    So no patch of it was visible to the views that drew it. Each patch must be removed in some view, as complementary masks
    remove it in all but one.
    """
    removed = views.mask[..., None].to(views.prediction)
    mean = (removed * views.prediction).sum(0) / removed.sum(0)
    return fill_in(views.image, torch.ones_like(views.mask[0]), mean, views.norm_pix)


def fill_in(image: Tensor, mask: Tensor, prediction: Tensor, norm_pix: bool) -> Tensor:
    """Returns ``image`` [C, H, W] with its removed patches replaced by their predictions, in the same normalisation.

    mask: [L], 1 removed; prediction: [L, p*p*C]. Where ``norm_pix``, each prediction is scaled by the deviation of the
    input's patch and shifted by its mean: the inverse of what the target was made by.
    """
    patches = _patches(image)
    predicted = prediction.to(patches)
    if norm_pix:
        mean, deviation = patch_statistics(patches)
        predicted = predicted * deviation + mean
    return _image(torch.where(mask.bool()[:, None], predicted, patches), image)


def hide_removed(image: Tensor, mask: Tensor) -> Tensor:
    """Returns ``image`` [C, H, W] with its removed patches grey; mask: [L], 1 removed."""
    patches = _patches(image)
    means, deviations = map(torch.tensor, channel_statistics(len(image)))
    grey = ((GREY - means) / deviations).to(patches)
    blank = grey.repeat(patches.shape[1] // len(image)).expand_as(patches)
    return _image(torch.where(mask.bool()[:, None], blank, patches), image)


def to_picture(image: Tensor) -> Image.Image:
    """Returns a normalised [C, H, W] as a picture at least PANEL pixels high; of other channels than RGB see ``as_rgb``."""
    mean, std = (torch.tensor(values)[:, None, None] for values in channel_statistics(len(image)))
    pixels = ((image.detach().cpu().float() * std + mean) * 255).round().clamp(0, 255).byte()
    return panel(as_rgb(pixels), Image.Resampling.BICUBIC)


def panel(picture: Image.Image, resampling: Image.Resampling = Image.Resampling.NEAREST) -> Image.Image:
    """Returns the picture, enlarged to PANEL pixels' height if it is smaller."""
    scale = max(1.0, PANEL / picture.height)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), resampling)


def _patches(image: Tensor) -> Tensor:
    return patchify(pad_to_patches(image[None]))[0]


def _image(patches: Tensor, like: Tensor) -> Tensor:
    return unpatchify(patches[None], *like.shape[1:])[0]
