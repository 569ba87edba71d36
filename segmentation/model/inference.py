"""From a picture of any size to its label map: in windows or whole, at several sizes and mirrored."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.segmentation.mmseg_parts import rescale_size

# Normalised pictures [B, C, H, W] to class scores of the same height and width, [B, N, H, W].
Score = Callable[[Tensor], Tensor]

_BAND = 2**24  # scores that a band of rows holds at most: 64 MiB


def slide(score: Score, pictures: Tensor, crop: int, stride: int, batch: int = 1) -> Tensor:
    """Returns scores [B, N, H, W], averaged where windows overlap; a window is no larger than the picture, as in mmseg.

    crop, stride: side of a window and step between windows, in pixels; batch: windows of a picture computed at a time.
    """
    height, width = pictures.shape[2:]
    tall, wide = min(crop, height), min(crop, width)
    corners = [(top, left) for top in _starts(height, tall, stride) for left in _starts(width, wide, stride)]
    times = pictures.new_zeros((height, width), dtype=torch.float32)
    total = None
    for first in range(0, len(corners), batch):
        some = corners[first : first + batch]
        windows = torch.cat([pictures[:, :, top : top + tall, left : left + wide] for top, left in some])
        found = score(windows).float()
        if total is None:
            total = found.new_zeros((len(pictures), found.shape[1], height, width))
        for (top, left), part in zip(some, found.split(len(pictures)), strict=True):
            total[:, :, top : top + tall, left : left + wide] += part
            times[top : top + tall, left : left + wide] += 1
    assert total is not None  # there is a window in any picture
    return total.div_(times)


def label(
    score: Score,
    pictures: Tensor,
    scale: Sequence[int] | None = None,
    factors: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Returns the labels of normalised pictures [B, C, H, W], int64 [B, H, W].

    Each copy of a picture is labelled in its own size, and its scores are resized to the picture's. Those of several copies
    are averaged as probabilities, as mmseg does.

    Args:
        score: labels one copy.
        scale: long and short side that a picture is resized to fit in, as large as it can be; None takes it as it is.
        factors: of the scale, a copy each.
        flip: whether each copy is labelled mirrored, too.
    """
    if len(factors) * (1 + flip) > 1:
        return _summed(score, pictures, scale, factors, flip).argmax(1)
    size = (pictures.shape[2], pictures.shape[3])
    labels = pictures.new_empty((len(pictures), *size), dtype=torch.int64)
    for rows, band in resized_bands(score(fit(pictures, scale, factors[0])), size):
        labels[:, rows] = band.argmax(1)
    return labels


def probabilities(
    score: Score,
    pictures: Tensor,
    scale: Sequence[int] | None = None,
    factors: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Returns each class's probability, float32 [B, N, H, W], as ``label`` compares them: the mean over the copies."""
    return _summed(score, pictures, scale, factors, flip) / (len(factors) * (1 + flip))


def _summed(
    score: Score, pictures: Tensor, scale: Sequence[int] | None, factors: Sequence[float], flip: bool
) -> Tensor:
    """Returns the sum of the copies' probabilities, float32 [B, N, H, W]: all that is kept from one copy to the next."""
    size = (pictures.shape[2], pictures.shape[3])
    total = None
    for factor in factors:
        for mirrored in (False, True)[: 1 + flip]:
            copy = fit(pictures, scale, factor)
            scores = score(copy.flip(3)).flip(3) if mirrored else score(copy)
            if total is None:
                total = scores.new_zeros((len(pictures), scores.shape[1], *size), dtype=torch.float32)
            for rows, band in resized_bands(scores, size):
                total[:, :, rows] += band.float().softmax(1)
    assert total is not None  # there is a copy
    return total


def fit(pictures: Tensor, scale: Sequence[int] | None, factor: float = 1.0) -> Tensor:
    """Returns pictures [B, C, H, W] as large as they can be within ``factor`` times a long and a short side, in pixels.

    Bilinear without smoothing, as training resizes them.
    """
    height, width = pictures.shape[2:]
    bounds = factor if scale is None else tuple(int(side * factor) for side in scale)
    width, height = (max(1, side) for side in rescale_size((width, height), bounds))
    if (height, width) == pictures.shape[2:]:
        return pictures
    return F.interpolate(pictures, size=(height, width), mode="bilinear", align_corners=False)


def resized_bands(scores: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Yields scores [B, N, h, w] resized to ``size`` (height, width), bilinear, a band of rows at a time, with its rows.

    All of them would be too many for a large picture: of 150 classes in 12 megapixels 7 GB.
    """
    height, width = size
    given = scores.shape[2]
    rows = max(1, _BAND // (scores.shape[0] * scores.shape[1] * width))
    # A row lies between two given ones, at the centre of its pixels.
    place = ((torch.arange(height, device=scores.device) + 0.5) * (given / height) - 0.5).clamp(min=0)
    above = place.long().clamp(max=given - 1)
    below = (above + 1).clamp(max=given - 1)
    share = (place - above).to(scores.dtype)[:, None]
    for first in range(0, height, rows):
        band = slice(first, min(first + rows, height))
        part = scores[:, :, band]
        if given != height:
            part = torch.lerp(scores[:, :, above[band]], scores[:, :, below[band]], share[band])
        if width != scores.shape[3]:
            part = F.interpolate(part, size=(part.shape[2], width), mode="bilinear", align_corners=False)
        yield band, part


def _starts(length: int, crop: int, stride: int) -> list[int]:
    """Returns where windows start along a side: every ``stride`` pixels, the last one moved back to the edge."""
    count = -(-(length - crop) // stride) + 1
    return [min(number * stride, length - crop) for number in range(count)]
