"""The region proposal network: torchvision's, with the published detector's selection and losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import batched_nms, clip_boxes_to_image

from convmae.detection.anchors import Anchors
from convmae.detection.heads import ProposalHead
from convmae.detection.sampling import BalancedSampler


class Counts(NamedTuple):
    """Proposals kept in training and in testing."""

    training: int
    testing: int


class ProposalNetwork(RegionProposalNetwork):
    """Anchors to proposals: the best of each level by objectness, then non-maximum suppression in each level."""

    def __init__(self, anchors: Anchors, head: ProposalHead, pre_nms: Counts, post_nms: Counts, sampled: int) -> None:
        super().__init__(
            anchors,
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=sampled,
            positive_fraction=0.5,
            pre_nms_top_n=pre_nms._asdict(),
            post_nms_top_n=post_nms._asdict(),
            nms_thresh=0.7,
        )
        self.fg_bg_sampler = BalancedSampler(sampled, 0.5)

    @torch.no_grad()
    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Returns for each picture its proposals [n, 4] and their logits [n], best first; boxes without area are left out."""
        pictures, levels = len(image_shapes), len(num_anchors_per_level)
        best_boxes, best_logits, groups = [], [], []
        picture = torch.arange(pictures, device=proposals.device)[:, None]
        logits = objectness.view(pictures, -1).split(num_anchors_per_level, dim=1)
        for level, (boxes, scores) in enumerate(
            zip(proposals.split(num_anchors_per_level, dim=1), logits, strict=True)
        ):
            # Logits, not probabilities: these are equal in fp32 for all very sure anchors.
            top, index = scores.topk(min(self.pre_nms_top_n(), scores.shape[1]), dim=1)
            best_boxes.append(boxes[picture, index])
            best_logits.append(top)
            groups.append((picture * levels + level).expand_as(top))
        joined, scores, group = torch.cat(best_boxes, 1), torch.cat(best_logits, 1), torch.cat(groups, 1)
        joined = torch.stack([clip_boxes_to_image(b, shape) for b, shape in zip(joined, image_shapes, strict=True)])
        solid = ((joined[..., 2:] > joined[..., :2]).all(dim=-1)).flatten()
        joined, scores, group = joined.view(-1, 4)[solid], scores.flatten()[solid], group.flatten()[solid]
        keep = batched_nms(joined, scores, group, self.nms_thresh)
        owner = group[keep] // levels
        chosen = [keep[owner == number][: self.post_nms_top_n()] for number in range(pictures)]
        return [joined[index] for index in chosen], [scores[index] for index in chosen]

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns the objectness and box losses, both over the number of anchors to sample in the batch (L1 for boxes)."""
        positive, negative = (torch.cat(chosen) for chosen in self.fg_bg_sampler(labels))
        total = self.fg_bg_sampler.batch_size_per_image * len(labels)
        sampled = positive | negative
        logits, targets = objectness.flatten()[sampled], positive[sampled].float()
        deltas, wanted = pred_bbox_deltas[positive], torch.cat(regression_targets)[positive]
        return (
            F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / total,
            F.l1_loss(deltas, wanted, reduction="sum") / total,
        )
