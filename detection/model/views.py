"""Objects found from several views of a picture, sizes of it and mirrored ones: boxes merged, masks averaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convmae.detection.model.boxes import suppress
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.detection.model.pooler import poolable
from convmae.detection.model.roi_heads import Detections

Size = tuple[int, int]  # height, width


class View(NamedTuple):
    """Pictures at one size, as they are or mirrored.

    images: [B, C, H, W], normalised; sizes: height and width of each picture within its padding.
    """

    images: Tensor
    sizes: list[Size]
    mirrored: bool = False


def views_of(images: Tensor, sizes: list[Size], flip: bool) -> Iterator[View]:
    """Yields the view of pictures at one size, and with ``flip`` that of the mirrored ones, padded on the same side."""
    yield View(images, sizes)
    if flip:
        mirrored = images.clone()
        for picture, (_, width) in zip(mirrored, sizes, strict=True):
            picture[..., :width] = picture[..., :width].flip(-1)
        yield View(mirrored, sizes, mirrored=True)


def detect_in_views(model: MaskRCNN, views: Iterable[View]) -> list[Detections]:
    """Returns the detections of each picture in the pixels of the first view.

    As detectron2's ``GeneralizedRCNNWithTTA`` does, the detections of all views are suppressed together within their class, the
    model's ``detections`` best are kept, and the masks of these are predicted in every view and averaged as probabilities.
    """
    heads, seen, found = model.roi_heads, [], []
    for images, sizes, mirrored in views:
        *pyramid, top = model.features(images)
        proposals, _ = model.rpn([*pyramid, top], sizes)
        pyramid = [poolable(level) for level in pyramid]  # once for both poolers
        found.append(heads.detect(pyramid, proposals, sizes))
        seen.append((pyramid if heads.has_mask else [], sizes, mirrored))
    frame = seen[0][1]
    moved = [move(part, sizes, frame, mirrored) for part, (_, sizes, mirrored) in zip(found, seen, strict=True)]
    merged = [merge(parts, heads.nms_threshold, heads.detections) for parts in zip(*moved, strict=True)]
    if heads.has_mask:
        masks = [heads.masks(pyramid, move(merged, frame, sizes, mirrored)) for pyramid, sizes, mirrored in seen]
        mirrors = [mirrored for *_, mirrored in seen]
        for one, *parts in zip(merged, *masks, strict=True):
            alike = [part.flip(-1) if mirrored else part for part, mirrored in zip(parts, mirrors, strict=True)]
            one["masks"] = torch.stack(alike).mean(dim=0)
    return merged


def move(found: Sequence[Detections], old: Sequence[Size], new: Sequence[Size], mirrored: bool) -> list[Detections]:
    """Returns detections without masks, of pictures of ``old`` sizes, in ``new`` ones, mirrored if one of the two is."""
    moved = []
    for one, (old_height, old_width), (height, width) in zip(found, old, new, strict=True):
        left, top, right, bottom = one["boxes"].unbind(-1)
        across, down = width / old_width, height / old_height
        left, right = left * across, right * across
        if mirrored:
            left, right = width - right, width - left
        moved.append({**one, "boxes": torch.stack([left, top * down, right, bottom * down], dim=-1)})
    return moved


def merge(parts: Sequence[Detections], threshold: float, most: int) -> Detections:
    """Returns the ``most`` best of several views' detections that overlap no better one of their class beyond a threshold."""
    boxes, scores, labels = (torch.cat([part[name] for part in parts]) for name in ("boxes", "scores", "labels"))
    keep = suppress(boxes, scores, labels, threshold)[:most]
    return {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}
