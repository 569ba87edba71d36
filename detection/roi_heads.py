"""Boxes, classes and masks from proposals: torchvision's RoI heads in the published detector's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

from convmae.detection.pooler import Pooler
from convmae.detection.sampling import BalancedSampler
from convmae.engine.processes import world_mean

Detections = dict[str, Tensor]  # boxes [n, 4], scores [n], labels [n], and masks [n, side, side] as probabilities


class DetectionHeads(RoIHeads):
    """Background is the last class, box deltas belong to a class, box loss is L1, as in detectron2."""

    def __init__(
        self,
        box_pooler: Pooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_parts: tuple[Pooler, nn.Module, nn.Module] | None,
        sampled: int,
        score_threshold: float,
        nms_threshold: float,
        detections: int,
    ) -> None:
        super().__init__(
            box_pooler,
            box_head,
            box_predictor,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=sampled,
            positive_fraction=0.25,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections,
        )
        self.fg_bg_sampler = BalancedSampler(sampled, 0.25)
        if mask_parts is not None:
            self.mask_roi_pool, self.mask_head, self.mask_predictor = mask_parts

    def forward(
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """Returns detections (no targets) or losses.

        targets: one a picture with boxes [n, 4], labels [n] from 0, and masks [n, H, W] if there is a mask head.
        """
        if targets is not None:
            return [], self.losses(features, proposals, targets)
        logits, deltas = self.box_outputs(features, proposals)
        found = self.select(logits, deltas, proposals, image_shapes)
        if self.has_mask():
            masks = self.mask_outputs(features, [f["boxes"] for f in found], torch.cat([f["labels"] for f in found]))
            for one, part in zip(found, masks.sigmoid().split([len(f["boxes"]) for f in found]), strict=True):
                one["masks"] = part
        return found, {}

    def box_outputs(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns class logits [N, classes + 1] and deltas [N, classes * 4] for boxes of all pictures."""
        return self.box_predictor(self.box_head(self.box_roi_pool(features, boxes)))

    def mask_outputs(self, features: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Returns mask logits [N, side, side] of the given class of each box."""
        if not len(labels):  # norms refuse an empty batch
            side = 2 * self.mask_roi_pool.size
            return features[0].new_zeros((0, side, side), dtype=torch.float32)
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes)))
        return logits[torch.arange(len(labels), device=labels.device), labels].float()

    def losses(
        self, features: Sequence[Tensor], proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Returns the losses of boxes and masks on proposals sampled from ``proposals`` and the objects themselves."""
        shifted = [{**target, "labels": target["labels"] + 1} for target in targets]  # torchvision: 0 is background
        boxes, matched, labels, wanted = self.select_training_samples(proposals, shifted)
        logits, deltas = self.box_outputs(features, boxes)
        foreground = [torch.where(found > 0)[0] for found in labels]
        classes = torch.cat(labels) - 1
        positive = torch.where(classes >= 0)[0]
        chosen = deltas.view(len(deltas), -1, 4)[positive, classes[positive]]
        # Over all processes, so that each object weighs the same wherever its picture is; no loss where there is none.
        sampled, objects = world_mean(len(classes), len(positive), device=logits.device).clamp(min=1e-6)
        truth = torch.where(classes < 0, logits.shape[1] - 1, classes)
        losses = {
            "loss_class": F.cross_entropy(logits, truth, reduction="sum") / sampled,
            "loss_box": F.l1_loss(chosen, torch.cat(list(wanted))[positive], reduction="sum") / sampled,
        }
        if self.has_mask():
            mask_boxes = [found[index] for found, index in zip(boxes, foreground, strict=True)]
            of_object = [found[index] for found, index in zip(matched, foreground, strict=True)]
            if len(positive):
                masks = self.mask_outputs(features, mask_boxes, classes[positive])
                mean = mask_loss(masks, mask_boxes, of_object, [target["masks"] for target in targets])
                losses["loss_mask"] = mean * len(positive) / objects
            else:  # zero, with a gradient of zero: across processes every parameter must have one
                parts = (*self.mask_head.parameters(), *self.mask_predictor.parameters())
                losses["loss_mask"] = 0.0 * torch.stack([part.sum() for part in parts]).sum()
        return losses

    def select(
        self, logits: Tensor, deltas: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Detections]:
        """Returns the detections of each picture: above the threshold, suppressed within their class, best first."""
        counts = [len(boxes) for boxes in proposals]
        decoded = self.box_coder.decode(deltas, proposals).view(len(deltas), logits.shape[1] - 1, 4)
        scores = logits.softmax(dim=-1)[:, :-1]
        found = []
        for boxes, part, shape in zip(decoded.split(counts), scores.split(counts), image_shapes, strict=True):
            index, labels = torch.where(part > self.score_thresh)
            confident = part[index, labels]
            clipped = clip_boxes_to_image(boxes[index, labels], shape)
            keep = batched_nms(clipped, confident, labels, self.nms_thresh)[: self.detections_per_img]
            found.append({"boxes": clipped[keep], "scores": confident[keep], "labels": labels[keep]})
        return found


def mask_loss(logits: Tensor, boxes: list[Tensor], objects: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Returns the mean binary cross-entropy between logits [N, side, side] and each box's cut of its object's mask.

    boxes, objects: for each picture the boxes [n, 4] and the object of each [n]; masks: its objects' masks [m, H, W].
    """
    side = logits.shape[-1]
    targets = [
        roi_align(found[:, None].float(), torch.cat([index[:, None].to(box.dtype), box], 1), side, 1.0, 0, aligned=True)
        for box, index, found in zip(boxes, objects, masks, strict=True)
        if len(box)
    ]
    return F.binary_cross_entropy_with_logits(logits, (torch.cat(targets)[:, 0] >= 0.5).float())
