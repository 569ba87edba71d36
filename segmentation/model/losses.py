"""How much each pixel counts in the loss: weights of classes, and hard pixels alone."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.engine.errors import UserError
from convmae.segmentation.config import LossOptions
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.mmseg_parts import BaseDecodeHead


class PixelWeights:
    """Stands in a head of mmseg for its pixel sampler. The loss stays a mean over all pixels.

    So it is never divided by a number that may be zero, and parts of a batch and processes add up to the whole batch. For
    the same reason hard pixels are chosen in each crop, not over those that happen to be in one part.
    """

    def __init__(self, classes: Tensor | None, options: LossOptions) -> None:
        # Of every value that a label map may hold; a pixel that is ignored has no loss whatever its weight.
        self.classes = None if classes is None else F.pad(classes, (0, IGNORE + 1 - len(classes)))
        self.options = options

    def sample(self, seg_logit: Tensor, seg_label: Tensor) -> Tensor:
        """Returns weights [B, H, W] from scores [B, N, H, W] and labels [B, 1, H, W]."""
        weight = torch.ones_like(seg_label[:, 0], dtype=torch.float32)
        if self.classes is not None:
            self.classes = self.classes.to(seg_label.device)
            weight = self.classes[seg_label[:, 0]]
        if self.options.ohem:
            crops = zip(seg_logit, seg_label[:, 0], strict=True)  # one by one: the probabilities of all would be large
            hard = [hard_pixels(*crop, self.options.ohem, self.options.ohem_kept) for crop in crops]
            weight = weight * torch.stack(hard)
        return weight


@torch.no_grad()
def hard_pixels(scores: Tensor, labels: Tensor, threshold: float, kept: int) -> Tensor:
    """Returns which pixels [H, W] of a crop are hard: their class's probability is below ``threshold``.

    Where these are fewer than ``kept``, it is the ``kept`` of the lowest probability. scores: [N, H, W]; labels: [H, W].
    """
    known = labels != IGNORE
    own = scores.float().softmax(0).gather(0, labels.masked_fill(~known, 0)[None])[0]
    own = own.masked_fill(~known, 2.0)  # behind all probabilities
    place = (known.sum() - 1).clamp(0, kept)
    limit = own.flatten().sort().values.gather(0, place[None])
    return known & (own < limit.clamp(min=threshold))


def weigh_pixels(heads: Iterable[BaseDecodeHead], options: LossOptions, pixels: np.ndarray) -> None:
    """Has the heads' losses weigh pixels as the options say; ``pixels`` [N] are the training split's of each class.

    Raises UserError for weights that don't fit the classes.
    """
    classes = class_weights(options, pixels)
    if classes is not None or options.ohem:
        for head in heads:
            head.sampler = PixelWeights(classes, options)


def class_weights(options: LossOptions, pixels: np.ndarray) -> Tensor | None:
    """Returns the weight of each class [N], or None where all weigh the same.

    Those that balance are ENet's, 1 / ln(1.02 + share of the pixels) (arXiv 1606.02147, section 5.2), scaled to 1 on average
    over the labelled pixels. Raises UserError for weights that don't fit the classes.
    """
    given = options.class_weights
    if not given and not options.balance:
        return None
    if given and options.balance:
        raise UserError("loss.class_weights and loss.balance both weigh the classes; expected one of them.")
    if options.balance:
        share = pixels / pixels.sum()
        weights = 1 / np.log(1.02 + share)
        return torch.tensor(weights / (share * weights).sum(), dtype=torch.float32)
    if len(given) != len(pixels) or min(given) < 0 or not any(given):
        raise UserError(
            f"loss.class_weights has {len(given)} numbers from {min(given):g} to {max(given):g}; expected {len(pixels)}, one a "
            "class, none below 0 and not all 0."
        )
    return torch.tensor(given, dtype=torch.float32)
