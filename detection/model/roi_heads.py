"""Boxes, classes and masks from proposals, in the published detector's form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from convmae.detection.model.boxes import BoxCoder, Candidates, Matcher, clip, suppress
from convmae.detection.model.pooler import Pooler, poolable
from convmae.detection.model.sampling import BalancedSampler, choose_all
from convmae.engine.machine.processes import world_mean

Detections = dict[str, Tensor]  # boxes [n, 4], scores [n], labels [n], and masks [n, side, side] as probabilities
Chooser = Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]  # `BalancedSampler`, or `choose_all`


class BoxStage(nn.Module):
    """What tells classes and better places of boxes from pooled features, and which objects it learns them from.

    Background is the last class, and box loss is L1, as in detectron2. Deltas are of a class each, or one set for all.
    """

    def __init__(self, box_head: nn.Module, box_predictor: nn.Module, matcher: Matcher, box_coder: BoxCoder) -> None:
        super().__init__()
        self.box_head, self.box_predictor = box_head, box_predictor
        self.matcher, self.box_coder = matcher, box_coder

    @torch.no_grad()
    def assign(
        self, candidates: Sequence[Tensor], objects: Sequence[Tensor], choose: Chooser
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Returns for each picture the boxes [n, 4] to learn from, positive ones first, and these' objects, [positives].

        candidates, objects: boxes [n, 4] of each picture; candidates without area are left out.
        """
        pairs = zip(objects, candidates, strict=True)
        states, matches = zip(*(self.matcher(*both) for both in pairs), strict=True)
        solid = [(found[:, 2:] > found[:, :2]).all(dim=1) for found in candidates]
        index, kind = choose([state.where(some, -1) for state, some in zip(states, solid, strict=True)])
        # How many there are has to be known on the host: norms in the heads count every box.
        counts = torch.stack([(kind == 1).sum(dim=1), (kind >= 0).sum(dim=1)], dim=1).tolist()
        boxes, of_object = [], []
        for found, match, order, (positives, count) in zip(candidates, matches, index, counts, strict=True):
            boxes.append(found[order[:count]])
            of_object.append(match[order[:positives]])
        return boxes, of_object

    def box_losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        boxes: Sequence[Tensor],
        matches: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Returns the losses of class logits [N, classes + 1] and deltas of boxes as ``assign`` returns them."""
        firsts = [len(match) for match in matches]  # the positive boxes of each picture come first
        positive = [found[:first] for found, first in zip(boxes, firsts, strict=True)]
        labels = [target["labels"][match] for target, match in zip(targets, matches, strict=True)]
        rest = [len(found) - first for found, first in zip(boxes, firsts, strict=True)]
        background = logits.shape[1] - 1
        truth = torch.cat([F.pad(of, (0, left), value=background) for of, left in zip(labels, rest, strict=True)])
        objects = torch.cat([target["boxes"][match] for target, match in zip(targets, matches, strict=True)])
        parts = deltas.unflatten(1, (-1, 4)).split([len(found) for found in boxes])
        chosen = torch.cat([part[:first] for part, first in zip(parts, firsts, strict=True)])
        own = _sets(chosen, torch.cat(labels))[:, None, None]
        chosen = torch.take_along_dim(chosen, own, dim=1)[:, 0]
        wanted = self.box_coder.encode(objects, torch.cat(positive))
        # Over all processes, so that each object weighs the same wherever its picture is; no loss where there is none.
        sampled = world_mean(len(truth), device=logits.device).clamp(min=1e-6)[0]
        return {
            "loss_class": F.cross_entropy(logits, truth, reduction="sum") / sampled,
            "loss_box": F.l1_loss(chosen, wanted, reduction="sum") / sampled,
        }

    def moved(self, deltas: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Returns the boxes that deltas [N, 4], one set for all classes, lead to, inside their pictures, without gradients."""
        decoded = self.box_coder.decode(deltas.detach(), torch.cat(list(boxes))).split([len(found) for found in boxes])
        return [clip(found, size) for found, size in zip(decoded, sizes, strict=True)]

    def decoded(self, deltas: Tensor, boxes: Sequence[Tensor], index: Tensor, labels: Tensor) -> Tensor:
        """Returns where deltas [N, sets * 4] lead the boxes of ``index`` [n] among all, taken as of classes ``labels`` [n]."""
        sets = deltas.unflatten(1, (-1, 4))
        return self.box_coder.decode(sets[index, _sets(sets, labels)], torch.cat(list(boxes))[index])


class DetectionHeads(BoxStage):
    """One box stage, or a cascade of them, and the mask head.

    The first stage's parts are the heads' own, under the published detector's names. A cascade has more in ``later_stages``,
    each on the boxes that the one before led to; confidences are the mean of all stages', boxes the last one's.
    """

    def __init__(
        self,
        box_pooler: Pooler,
        stages: Sequence[BoxStage],
        mask_parts: tuple[Pooler, nn.Module, nn.Module] | None,
        sampled: int,
        score_threshold: float,
        nms_threshold: float,
        detections: int,
    ) -> None:
        first, *later = stages
        super().__init__(first.box_head, first.box_predictor, first.matcher, first.box_coder)
        self.box_roi_pool, self.later_stages = box_pooler, nn.ModuleList(later)
        self.sampler = BalancedSampler(sampled, 0.25)
        self.score_threshold, self.nms_threshold, self.detections = score_threshold, nms_threshold, detections
        self.has_mask = mask_parts is not None
        if mask_parts is not None:
            self.mask_roi_pool, self.mask_head, self.mask_predictor = mask_parts

    @property
    def stages(self) -> list[BoxStage]:
        """All box stages in their order."""
        return [self, *self.later_stages]

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
        features = [poolable(level) for level in features]  # once for all poolers
        if targets is not None:
            return [], self.losses(features, proposals, image_shapes, targets)
        found = self.detect(features, proposals, image_shapes)
        if self.has_mask:
            for one, masks in zip(found, self.masks(features, found), strict=True):
                one["masks"] = masks
        return found, {}

    def masks(self, features: Sequence[Tensor], found: list[Detections]) -> Sequence[Tensor]:
        """Returns the masks [n, side, side] of each picture's boxes, of their labels, as probabilities."""
        masks = self.mask_outputs(features, [f["boxes"] for f in found], torch.cat([f["labels"] for f in found]))
        return masks.sigmoid().split([len(f["boxes"]) for f in found])

    def box_outputs(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor], number: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Returns a stage's class logits [N, classes + 1] and deltas [N, sets * 4] for boxes of all pictures."""
        pooled, stage = self.box_roi_pool(features, boxes), self.stages[number]
        if self.later_stages and pooled.requires_grad:
            # Losses of stages are added; what they share learns from their mean (detectron2).
            pooled.register_hook(lambda gradient: gradient / len(self.stages))
        logits, deltas = stage.box_predictor(stage.box_head(pooled))
        return logits, deltas

    def mask_outputs(self, features: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Returns mask logits [N, side, side] of the given class of each box."""
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes)))
        return torch.take_along_dim(logits, labels[:, None, None, None], dim=1)[:, 0].float()

    def losses(
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Returns the losses of boxes and masks on proposals sampled from ``proposals`` and the objects themselves.

        Later stages learn from all boxes that the stage before led to; the names of their losses end in their number, from 2.
        """
        objects = [target["boxes"] for target in targets]
        candidates = [torch.cat(both) for both in zip(proposals, objects, strict=True)]
        losses, boxes_of_all = {}, []
        for number, stage in enumerate(self.stages):
            chosen = stage.assign(candidates, objects, choose_all if number else self.sampler)
            boxes_of_all.append(chosen)
            logits, deltas = self.box_outputs(features, chosen[0], number)
            found = stage.box_losses(logits, deltas, *chosen, targets)
            losses.update({f"{name}_{number + 1}" if number else name: loss for name, loss in found.items()})
            if stage is not self.stages[-1]:
                candidates = stage.moved(deltas, chosen[0], image_shapes)
        if self.has_mask:
            losses["loss_mask"] = self.mask_loss(features, *boxes_of_all[0], targets)
        return losses

    def mask_loss(
        self,
        features: Sequence[Tensor],
        boxes: Sequence[Tensor],
        matches: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]],
    ) -> Tensor:
        """Returns the loss of the masks of the positive ones of boxes as ``assign`` returns them."""
        positive = [found[: len(match)] for found, match in zip(boxes, matches, strict=True)]
        classes = torch.cat([target["labels"][match] for target, match in zip(targets, matches, strict=True)])
        # Without boxes too: norms wait for every process, and every parameter must have a gradient in all of them.
        logits = self.mask_outputs(features, positive, classes)
        positives = world_mean(len(classes), device=logits.device).clamp(min=1e-6)[0]
        return mask_loss(logits, positive, matches, [target["masks"] for target in targets]) / positives

    def detect(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Detections]:
        """Returns the detections of each picture, best first: of ``candidates`` what suppression within a class leaves."""
        found = []
        for places, scores, labels in self.candidates(features, boxes, image_shapes):
            keep = suppress(places, scores, labels, self.nms_threshold)[: self.detections]
            found.append({"boxes": places[keep], "scores": scores[keep], "labels": labels[keep]})
        return found

    def candidates(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Candidates]:
        """Returns for each picture the boxes of every class above the score threshold, with their labels."""
        every = []
        for number, stage in enumerate(self.stages):
            logits, deltas = self.box_outputs(features, boxes, number)
            every.append(logits.softmax(dim=-1)[:, :-1])
            if stage is not self.stages[-1]:
                boxes = stage.moved(deltas, boxes, image_shapes)
        scores = torch.stack(every).mean(dim=0)
        sure = scores > self.score_threshold
        counts = torch.stack([part.sum() for part in sure.split([len(found) for found in boxes])]).tolist()
        index, labels = torch.where(sure)
        confident = scores[index, labels]
        decoded = self.stages[-1].decoded(deltas, boxes, index, labels)
        return [
            Candidates(clip(one, shape), score, label)
            for one, score, label, shape in zip(
                *(values.split(counts) for values in (decoded, confident, labels)), image_shapes, strict=True
            )
        ]


def mask_loss(logits: Tensor, boxes: Sequence[Tensor], objects: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
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


def _sets(deltas: Tensor, labels: Tensor) -> Tensor:
    """Returns which of the deltas [N, sets, 4] are each label's: its own, or the only ones."""
    return labels.clamp(max=deltas.shape[1] - 1)
