"""The region proposal network, with the published detector's selection and losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmae.detection.model.anchors import Anchors
from convmae.detection.model.boxes import BoxCoder, Candidates, Matcher, clip, suppress
from convmae.detection.model.heads import ProposalHead
from convmae.detection.model.sampling import BalancedSampler


class Counts(NamedTuple):
    """Proposals kept in training and in testing."""

    training: int
    testing: int

    def of(self, training: bool) -> int:
        """Returns the number for one of the two."""
        return self.training if training else self.testing


class ProposalNetwork(nn.Module):
    """Anchors to proposals: the best of each level by objectness, then non-maximum suppression in each level."""

    def __init__(self, anchors: Anchors, head: ProposalHead, pre_nms: Counts, post_nms: Counts, sampled: int) -> None:
        super().__init__()
        self.anchor_generator, self.head = anchors, head
        self.pre_nms, self.post_nms, self.nms_threshold = pre_nms, post_nms, 0.7
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(0.3, 0.7, keep_best=True)
        self.sampler = BalancedSampler(sampled, 0.5)

    def forward(
        self,
        features: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Returns the proposals [n, 4] of each picture, best first, and with ``targets`` the losses.

        features: [B, C, H, W] of each level, finest first; sizes: height and width of each picture; targets: one a picture,
        with boxes [n, 4].
        """
        logits, deltas, anchors, counts = self.outputs(features)
        proposals = self.propose(logits, deltas, anchors, sizes, counts)
        if targets is None:
            return proposals, {}
        return proposals, self.losses(logits, deltas, anchors, [target["boxes"] for target in targets])

    def outputs(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Returns logits [B, N] and deltas [B, N, 4] of all anchors [N, 4], and each level's number of them."""
        logits, deltas = self.head(list(features))
        joined_logits = torch.cat([_by_anchor(level, 1) for level in logits], dim=1)[..., 0]
        joined_deltas = torch.cat([_by_anchor(level, 4) for level in deltas], dim=1)
        return joined_logits, joined_deltas, self.anchor_generator(features), [level[0].numel() for level in logits]

    @torch.no_grad()
    def propose(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Sequence[tuple[int, int]], counts: Sequence[int]
    ) -> list[Tensor]:
        """Returns for each picture its proposals [n, 4], best first: of ``candidates`` what suppression leaves."""
        chosen = []
        for boxes, scores, levels in self.candidates(logits, deltas, anchors, sizes, counts):
            keep = suppress(boxes, scores, levels, self.nms_threshold)
            chosen.append(boxes[keep[: self.post_nms.of(self.training)]])
        return chosen

    @torch.no_grad()
    def candidates(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Sequence[tuple[int, int]], counts: Sequence[int]
    ) -> list[Candidates]:
        """Returns for each picture the best boxes of each level, with their logits and levels, best first.

        Boxes without area are left out. logits: [B, N]; deltas: [B, N, 4]; anchors: [N, 4], of which each level has its number
        in ``counts``.
        """
        tops, indices, levels, start = [], [], [], 0
        for level, part in enumerate(logits.split(list(counts), dim=1)):
            # Logits, not probabilities: these are equal in fp32 for all very sure anchors.
            top, index = part.topk(min(self.pre_nms.of(self.training), part.shape[1]), dim=1)
            tops.append(top)
            indices.append(index + start)
            levels.append(torch.full_like(index, level))
            start += part.shape[1]
        index = torch.cat(indices, dim=1)
        boxes = self.box_coder.decode(torch.take_along_dim(deltas, index[..., None], dim=1), anchors[index])
        boxes = torch.stack([clip(found, size) for found, size in zip(boxes, sizes, strict=True)])
        solid = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        # Those without area last, and cut off once their number is known.
        scores, order = torch.cat(tops, dim=1).masked_fill(~solid, -torch.inf).sort(dim=1, descending=True, stable=True)
        boxes = torch.take_along_dim(boxes, order[..., None], dim=1)
        group = torch.cat(levels, dim=1).gather(1, order)
        return [
            Candidates(boxes[picture, :count], scores[picture, :count], group[picture, :count])
            for picture, count in enumerate(solid.sum(dim=1).tolist())
        ]

    def losses(self, logits: Tensor, deltas: Tensor, anchors: Tensor, objects: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns the objectness and box losses, both over the number of anchors to sample in the batch (L1 for boxes).

        logits: [B, N]; deltas: [B, N, 4]; anchors: [N, 4]; objects: the boxes [n, 4] of each picture.
        """
        with torch.no_grad():
            states, matches = zip(*(self.matcher(found, anchors) for found in objects), strict=True)
            index, kind = self.sampler(states)
            first = index[:, : self.sampler.positives]  # there the positive ones are
            positive = (kind[:, : self.sampler.positives] == 1)[..., None]
            place, places = 0, []
            for found, match in zip(objects, matches, strict=True):
                places.append(match + place)
                place += len(found)
            # A row more, for pictures without objects; what is no positive anchor's counts for nothing.
            joined = torch.cat([*objects, anchors[:1]])
            wanted = self.box_coder.encode(joined[torch.stack(places).gather(1, first)], anchors[first])
            wanted = wanted.where(positive, 0.0)
        total = self.sampler.count * len(objects)
        loss = F.binary_cross_entropy_with_logits(
            logits.gather(1, index), (kind == 1).to(logits.dtype), (kind >= 0).to(logits.dtype), reduction="sum"
        )
        far = F.l1_loss(torch.take_along_dim(deltas, first[..., None], dim=1), wanted, reduction="none")
        return {"loss_rpn_class": loss / total, "loss_rpn_box": far.where(positive, 0.0).sum() / total}


def _by_anchor(level: Tensor, numbers: int) -> Tensor:
    """Returns a level's map [B, anchors * numbers, H, W] as [B, H * W * anchors, numbers]."""
    return level.permute(0, 2, 3, 1).reshape(len(level), -1, numbers)
