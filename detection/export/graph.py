"""A detector as a graph: from a picture of any size as bytes to its objects, in the picture's own pixels."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from convmae.detection.config import DetectionConfig
from convmae.detection.data.transforms import padding_colour
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.pooler import Pooler
from convmae.detection.model.restore import paste_masks
from convmae.engine.errors import UserError
from convmae.engine.export.graphs import Ports, check_one_view
from convmae.engine.export.operators import resize_bytes, suppress_groups
from convmae.engine.pictures.images import normalize

LOWEST = -1e30  # below every logit


def ports(masks: bool) -> Ports:
    """Returns the graph's input and outputs."""
    number = {0: "objects"}
    outputs = {"boxes": number, "scores": number, "labels": number}
    if masks:
        outputs["masks"] = {**number, 1: "height", 2: "width"}
    return Ports("image", {0: "height", 1: "width"}, outputs)


class LevelPooler(nn.Module):
    """What ``Pooler`` does for one picture: RoIAlign on each level, for the boxes that it suits."""

    def __init__(self, pooler: Pooler) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        (places,) = boxes
        levels, parts, order = self.pooler.levels(places), [], []
        for level, (feature, stride) in enumerate(zip(features, self.pooler.strides, strict=True)):
            index = torch.where(levels == level)[0]
            rois = F.pad(places[index], (1, 0))
            parts.append(roi_align(feature, rois, self.pooler.size, 1 / stride, 0, aligned=True))
            order.append(index)
        return torch.cat(parts)[torch.cat(order).argsort()]


class Square(nn.Module):
    """What ``fitted`` does: a picture's bytes [H, W, C] in the top left corner of a padded square [1, C, side, side], in fp32.

    With it comes the height and width of the picture in the square, int64 [2].
    """

    colour: Tensor

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.side = config.data.img_size
        colour = padding_colour(config.data.padding, config.model.in_chans)
        self.register_buffer("colour", torch.tensor(colour, dtype=torch.float32)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        source = torch._shape_as_tensor(image)[:2]
        # In fp64 and with halves to the even number, as `fit` has it.
        inside = torch.round(source.double() * (self.side / source.max().double())).clamp(min=1).long()
        pixels = resize_bytes(image.permute(2, 0, 1)[None], inside).float()
        pixels = F.pad(pixels, (0, self.side - inside[1], 0, self.side - inside[0]))  # type: ignore[arg-type]
        place = torch.arange(self.side)
        beyond = (place >= inside[0])[:, None] | (place >= inside[1])
        square = torch.where(beyond, self.colour, pixels)
        return square.reshape(1, len(self.colour), self.side, self.side), inside


class DetectorGraph(nn.Module):
    """What ``DetectionModel`` does with one view of one picture, from its pixels to its pixels, so that it can be traced.

    From bytes [H, W, C] to boxes [n, 4] (left, top, right, bottom), scores [n], labels int64 [n], best first, and, of a model
    with masks, masks uint8 [n, H, W] of zeros and ones.
    """

    anchors: Tensor

    def __init__(self, model: DetectionModel, config: DetectionConfig) -> None:
        """Raises UserError as ``check_views`` does."""
        super().__init__()
        check_views(config)
        self.model, self.square, side = copy.deepcopy(model.model), Square(config), config.data.img_size
        heads, rpn = self.model.roi_heads, self.model.rpn
        with torch.no_grad():
            maps = self.model.features(torch.zeros(1, config.model.in_chans, side, side))
        counts = [feature.shape[-2] * feature.shape[-1] * len(rpn.anchor_generator.ratios) for feature in maps]
        self.register_buffer("anchors", rpn.anchor_generator(maps).clone())
        self.counts = counts
        heads.box_roi_pool = LevelPooler(heads.box_roi_pool)  # type: ignore[assignment]
        if heads.has_mask:
            heads.mask_roi_pool = LevelPooler(heads.mask_roi_pool)  # type: ignore[assignment]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        height, width = image.shape[0], image.shape[1]
        source = torch._shape_as_tensor(image)[:2]
        square, inside = self.square(image)
        pyramid = self.model.features(normalize(square))
        limits = inside.flip(0).float().repeat(2)  # right and bottom edges, for each corner
        boxes, scores, labels = self._detect(pyramid[:-1], self._propose(pyramid, limits), limits)
        masks = self._masks(pyramid[:-1], boxes, labels) if self.model.roi_heads.has_mask else None
        whole = source.flip(0).repeat(2)
        scale = (inside.flip(0).double() / source.flip(0).double()).float().repeat(2)
        restored = torch.minimum((boxes / scale).clamp(min=0), whole.float())
        solid = torch.where((restored[:, 2:] > restored[:, :2]).all(dim=1))[0]
        found = restored[solid], scores[solid], labels[solid]
        if masks is None:
            return found
        return *found, (paste_masks(masks[solid], found[0], height, width) >= 0.5).to(torch.uint8)

    def _propose(self, pyramid: Sequence[Tensor], limits: Tensor) -> Tensor:
        """``ProposalNetwork.propose``: the boxes [n, 4] that the heads look at."""
        rpn = self.model.rpn
        logits, deltas = rpn.head(list(pyramid))
        most = min(rpn.pre_nms.testing, max(self.counts))
        places, confidence = [], []
        for level, anchors in enumerate(self.anchors.split(self.counts)):
            count = min(most, self.counts[level])
            top, index = logits[level].permute(0, 2, 3, 1).reshape(-1).topk(count)
            moves = deltas[level].permute(0, 2, 3, 1).reshape(-1, 4)[index]
            boxes = _clip(rpn.box_coder.decode(moves, anchors[index]), limits)
            solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            places.append(F.pad(boxes, (0, 0, 0, most - count)))
            confidence.append(F.pad(top.masked_fill(~solid, 2 * LOWEST), (0, most - count), value=2 * LOWEST))
        stacked = torch.stack(places)
        pairs = suppress_groups(stacked, torch.stack(confidence), rpn.nms_threshold, LOWEST, rpn.post_nms.testing)
        return stacked[pairs[:, 0], pairs[:, 1]]

    def _detect(self, features: Sequence[Tensor], boxes: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``DetectionHeads.detect``: boxes [n, 4], scores [n] and labels [n], best first, in the square."""
        heads, every = self.model.roi_heads, []
        for number, stage in enumerate(heads.stages):
            logits, deltas = heads.box_outputs(features, [boxes], number)
            every.append(logits.softmax(dim=-1)[:, :-1])
            if number + 1 < len(heads.stages):
                boxes = _clip(stage.box_coder.decode(deltas, boxes), limits)
        scores = torch.stack(every).mean(dim=0).t()  # [classes, N]
        sets = deltas.reshape(deltas.shape[0], -1, 4)
        places = _clip(heads.stages[-1].box_coder.decode(sets, boxes[:, None]), limits).permute(1, 0, 2)
        places = places.expand(scores.shape[0], -1, -1)
        pairs = suppress_groups(places, scores, heads.nms_threshold, heads.score_threshold, heads.detections)
        labels, index = pairs[:, 0], pairs[:, 1]
        return places[labels, index], scores[labels, index], labels

    def _masks(self, features: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """``DetectionHeads.masks``: probabilities [n, side, side]."""
        heads = self.model.roi_heads
        # A box more than there are, as group norm has no form in ONNX for none.
        pooled = heads.mask_roi_pool(features, [F.pad(boxes, (0, 0, 0, 1))])
        logits = heads.mask_predictor(heads.mask_head(pooled))
        number = torch._shape_as_tensor(labels)[0]
        return logits[torch.arange(number), labels].float().sigmoid()  # type: ignore[call-overload]


def _clip(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes [..., 4] without what lies outside a picture whose edges, for each of the four numbers, are a tensor."""
    return torch.minimum(boxes.clamp(min=0), limits)


def check_views(config: DetectionConfig) -> None:
    """Raises UserError for a recipe that merges several views, or leaves padding out, which a graph does not."""
    check_one_view(config.inference.scales, config.inference.flip)
    if not config.inference.square:
        raise UserError(
            "The recipe leaves the padding of pictures out (inference.square=false), by which objects near it differ; a graph "
            "computes the square: --cfg-options inference.square=true."
        )
