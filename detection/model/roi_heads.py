"""Boxes, classes and masks from proposals, in the published detector's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from convmae.detection.model.boxes import BoxCoder, Matcher, clip, suppress
from convmae.detection.model.pooler import Pooler, poolable
from convmae.detection.model.sampling import BalancedSampler
from convmae.engine.machine.processes import world_mean

Detections = dict[str, Tensor]  # boxes [n, 4], scores [n], labels [n], and masks [n, side, side] as probabilities


class DetectionHeads(nn.Module):
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
        super().__init__()
        self.box_roi_pool, self.box_head, self.box_predictor = box_pooler, box_head, box_predictor
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = Matcher(0.5, 0.5)
        self.sampler = BalancedSampler(sampled, 0.25)
        self.score_threshold, self.nms_threshold, self.detections = score_threshold, nms_threshold, detections
        self.has_mask = mask_parts is not None
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
        features = [poolable(level) for level in features]  # once for both poolers
        if targets is not None:
            return [], self.losses(features, proposals, targets)
        found = self.detect(features, proposals, image_shapes)
        if self.has_mask:
            for one, masks in zip(found, self.masks(features, found), strict=True):
                one["masks"] = masks
        return found, {}

    def detect(
        self, features: Sequence[Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Detections]:
        """Returns the detections of each picture, without their masks."""
        logits, deltas = self.box_outputs(features, proposals)
        return self.select(logits, deltas, proposals, image_shapes)

    def masks(self, features: Sequence[Tensor], found: list[Detections]) -> Sequence[Tensor]:
        """Returns the masks [n, side, side] of each picture's boxes, of their labels, as probabilities."""
        masks = self.mask_outputs(features, [f["boxes"] for f in found], torch.cat([f["labels"] for f in found]))
        return masks.sigmoid().split([len(f["boxes"]) for f in found])

    def box_outputs(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns class logits [N, classes + 1] and deltas [N, classes * 4] for boxes of all pictures."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, boxes)))
        return logits, deltas

    def mask_outputs(self, features: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Returns mask logits [N, side, side] of the given class of each box."""
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes)))
        return torch.take_along_dim(logits, labels[:, None, None, None], dim=1)[:, 0].float()

    def losses(
        self, features: Sequence[Tensor], proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Returns the losses of boxes and masks on proposals sampled from ``proposals`` and the objects themselves."""
        boxes, matches = self.sample(proposals, [target["boxes"] for target in targets])
        logits, deltas = self.box_outputs(features, boxes)
        background = logits.shape[1] - 1
        firsts = [len(match) for match in matches]  # the positive boxes of each picture come first
        positive = [found[:first] for found, first in zip(boxes, firsts, strict=True)]
        labels = [target["labels"][match] for target, match in zip(targets, matches, strict=True)]
        classes = torch.cat(labels)
        rest = [len(found) - first for found, first in zip(boxes, firsts, strict=True)]
        truth = torch.cat([F.pad(of, (0, left), value=background) for of, left in zip(labels, rest, strict=True)])
        objects = torch.cat([target["boxes"][match] for target, match in zip(targets, matches, strict=True)])
        parts = deltas.view(len(deltas), -1, 4).split([len(found) for found in boxes])
        chosen = torch.cat([part[:first] for part, first in zip(parts, firsts, strict=True)])
        chosen = torch.take_along_dim(chosen, classes[:, None, None], dim=1)[:, 0]
        # Over all processes, so that each object weighs the same wherever its picture is; no loss where there is none.
        sampled, positives = world_mean(len(truth), len(classes), device=logits.device).clamp(min=1e-6)
        wanted = self.box_coder.encode(objects, torch.cat(positive))
        losses = {
            "loss_class": F.cross_entropy(logits, truth, reduction="sum") / sampled,
            "loss_box": F.l1_loss(chosen, wanted, reduction="sum") / sampled,
        }
        if self.has_mask:
            # Without boxes too: norms wait for every process, and every parameter must have a gradient in all of them.
            masks = self.mask_outputs(features, positive, classes)
            losses["loss_mask"] = (
                mask_loss(masks, positive, matches, [target["masks"] for target in targets]) / positives
            )
        return losses

    @torch.no_grad()
    def sample(self, proposals: Sequence[Tensor], objects: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns for each picture the boxes [n, 4] to learn from, positive ones first, and these' objects, [positives].

        proposals, objects: boxes [n, 4] of each picture; the objects are among the candidates.
        """
        candidates = [torch.cat(both) for both in zip(proposals, objects, strict=True)]
        states, matches = zip(*(self.matcher(*both) for both in zip(objects, candidates, strict=True)), strict=True)
        index, kind = self.sampler(states)
        # How many there are has to be known on the host: norms in the heads count every box.
        counts = torch.stack([(kind == 1).sum(dim=1), (kind >= 0).sum(dim=1)], dim=1).tolist()
        boxes, of_object = [], []
        for found, match, order, (positives, count) in zip(candidates, matches, index, counts, strict=True):
            boxes.append(found[order[:count]])
            of_object.append(match[order[:positives]])
        return boxes, of_object

    def select(
        self, logits: Tensor, deltas: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Detections]:
        """Returns the detections of each picture: above the threshold, suppressed within their class, best first."""
        scores = logits.softmax(dim=-1)[:, :-1]
        sure = scores > self.score_threshold
        counts = torch.stack([part.sum() for part in sure.split([len(boxes) for boxes in proposals])]).tolist()
        index, labels = torch.where(sure)
        confident = scores[index, labels]
        decoded = self.box_coder.decode(deltas.view(len(deltas), -1, 4)[index, labels], torch.cat(proposals)[index])
        found = []
        for boxes, score, label, shape in zip(
            *(values.split(counts) for values in (decoded, confident, labels)), image_shapes, strict=True
        ):
            clipped = clip(boxes, shape)
            keep = suppress(clipped, score, label, self.nms_threshold)[: self.detections]
            found.append({"boxes": clipped[keep], "scores": score[keep], "labels": label[keep]})
        return found


def mask_loss(logits: Tensor, boxes: list[Tensor], objects: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Returns the sum over boxes of the mean binary cross-entropy between logits [N, side, side] and a box's cut of its mask.

    boxes, objects: for each picture the boxes [n, 4] and the object of each [n]; masks: its objects' masks [m, H, W].
    """
    side = logits.shape[-1]
    targets = [
        roi_align(found[:, None].float(), torch.cat([index[:, None].to(box.dtype), box], 1), side, 1.0, 0, aligned=True)
        for box, index, found in zip(boxes, objects, masks, strict=True)
        if len(box)
    ]
    inside = torch.cat([logits.new_empty(0, 1, side, side), *targets])[:, 0] >= 0.5
    return F.binary_cross_entropy_with_logits(logits, inside.float(), reduction="sum") / side**2
