"""A detector as a graph: from a picture of any size as bytes to its objects, in the picture's own pixels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_api
from torch import Tensor, nn
from torchvision.ops import box_iou, roi_align

from convmae.detection.checks.preflight import read_split
from convmae.detection.config import DetectionConfig
from convmae.detection.data.dataset import collate_test, fitted
from convmae.detection.data.transforms import padding_colour
from convmae.detection.evaluation.coco_metric import CocoMetric
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.pooler import Pooler
from convmae.detection.model.restore import paste_masks
from convmae.engine.errors import UserError
from convmae.engine.export.graphs import OPSETS, Ports, check_one_view, open_session, run, write_graph
from convmae.engine.export.operators import resize_bytes, suppress_groups
from convmae.engine.pictures.images import normalize, read_image, to_tensor

# How far the graph's objects may be from PyTorch's on the same square: boxes in pixels of the square, scores, and a share of a
# mask's pixels. Other kernels differ by a hundredth of that.
PIXELS, SCORE, MASK = 0.05, 1e-3, 0.005
LEVELS = 1  # grey levels that the graph's square may be from Pillow's: onnxruntime rounds some pixels the other way
_SAME = 0.8  # IoU of two boxes above which they are of one object; suppression leaves none so near
_FEW = 2  # pixels of a mask that may differ however small it is
_LOWEST = -1e30  # below every logit


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
            confidence.append(F.pad(top.masked_fill(~solid, 2 * _LOWEST), (0, most - count), value=2 * _LOWEST))
        stacked = torch.stack(places)
        pairs = suppress_groups(stacked, torch.stack(confidence), rpn.nms_threshold, _LOWEST, rpn.post_nms.testing)
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


def _resizer(config: DetectionConfig) -> Any:
    """The session of a graph of ``Square`` alone: the pixels that the whole graph looks at."""
    with TemporaryDirectory() as folder:
        path, example = Path(folder) / "square.onnx", torch.zeros(8, 12, config.model.in_chans, dtype=torch.uint8)
        inner = Ports("image", {0: "height", 1: "width"}, {"square": {}, "inside": {}})
        write_graph(Square(config), example, inner, path, OPSETS[0], {})
        return open_session(path, 1)


def predict(
    model: DetectionModel, config: DetectionConfig, resizer: Any, image: NDArray[np.uint8]
) -> tuple[dict[str, Any], int]:
    """Returns PyTorch's detections on the graph's square of a picture [H, W, C], and how many levels that is from Pillow's."""
    channels = config.model.in_chans
    picture = Image.fromarray(image) if channels == 3 else torch.from_numpy(image.transpose(2, 0, 1).copy())
    batch = collate_test([fitted(picture, 0, (config.data.img_size,), config.data.padding)])
    square = torch.from_numpy(run(resizer, image)[0])
    levels = int((square - batch["images"][0]).abs().max())
    with torch.inference_mode():
        (found,) = model([square.to(torch.uint8)], samples=batch["samples"], mode="predict")
    return dict(found), levels


def as_found(outputs: Sequence[NDArray[Any]], image_id: int = 0) -> dict[str, Any]:
    """Returns a graph's outputs as ``DetectionModel`` gives detections, masks as RLE."""
    boxes, scores, labels, *rest = outputs
    found: dict[str, Any] = {"image_id": image_id}
    found |= {"boxes": torch.from_numpy(boxes), "scores": torch.from_numpy(scores), "labels": torch.from_numpy(labels)}
    if rest:
        columns = np.asfortranarray(rest[0].transpose(1, 2, 0))
        rows = mask_api.encode(columns) if len(boxes) else []
        found["masks"] = [{**row, "counts": row["counts"].decode()} for row in rows]
    return found


def compare(
    model: DetectionModel, config: DetectionConfig, session: Any, pictures: Sequence[NDArray[np.uint8]]
) -> tuple[list[str], dict[str, float]]:
    """Returns a line for each picture [H, W, C], and the largest differences of boxes (pixels), scores and masks (a share).

    The graph's square may be a grey level from Pillow's. On that very square each of PyTorch's detections has to be in the
    graph's, of its class, within the tolerances, and each of the graph's in PyTorch's. Left out, and counted, are those whose
    score is as near to the threshold, or to the last that is kept.

    Raises UserError saying what differs and how much, or that nothing was found to be compared.
    """
    lines, worst, total, resizer = [], {"boxes": 0.0, "scores": 0.0, "masks": 0.0}, 0, _resizer(config)
    for image in pictures:
        size = f"{image.shape[0]}x{image.shape[1]}"
        wanted, levels = predict(model, config, resizer, image)
        if levels > LEVELS:
            raise UserError(
                f"At {size} the graph's resized picture is up to {levels} grey levels from Pillow's, more than {LEVELS}; "
                "nothing is written. Try another version of onnxruntime."
            )
        found = as_found(run(session, image))
        pixels = PIXELS * max(1.0, max(image.shape[:2]) / config.data.img_size)
        here = _differences(wanted, found, config, pixels, size)
        worst = {name: max(value, here[name]) for name, value in worst.items()}
        sure = len(_sure(wanted, config))
        total, left_out = total + sure, len(wanted["scores"]) - sure
        parts = f"boxes {here['boxes']:.1e} px, scores {here['scores']:.1e}"
        masks = f", masks {here['masks']:.1e} of a mask's pixels" if "masks" in wanted else ""
        resized = "resized within a grey level of Pillow" if levels else "resized as Pillow does"
        lines.append(f"{size}: {resized}; {sure} objects ({left_out} at the threshold left out), {parts}{masks}")
    if not total:
        raise UserError(
            "The model finds nothing in these pictures, so nothing was compared and nothing is written; give a folder of "
            "pictures with objects by --pictures."
        )
    return lines, worst


def evaluate(session: Any, config: DetectionConfig) -> dict[str, float]:
    """Returns COCO's numbers of a graph on the validation pictures. Raises UserError for data that can't be read."""
    data = read_split(config.data, config.model.masks, config.model.detections, config.model.in_chans)
    metric = CocoMetric(data, config.model.masks)
    reading = config.data.reading(config.model.in_chans)
    rows = []
    for record in data.images:
        pixels = to_tensor(read_image(data.path(record), reading)).permute(1, 2, 0).contiguous().numpy()
        rows.append(as_found(run(session, pixels), record.id))
    return metric.compute_metrics(rows)


def _sure(found: dict[str, Any], config: DetectionConfig) -> Tensor:
    """The numbers of detections that are not as near to a threshold as the tolerance is."""
    scores, limit = found["scores"], config.model.score_threshold
    if len(scores) == config.model.detections:
        limit = max(limit, float(scores.min()))
    return torch.where(scores > limit + SCORE)[0]


def _differences(
    wanted: dict[str, Any], found: dict[str, Any], config: DetectionConfig, pixels: float, size: str
) -> dict[str, float]:
    """The largest differences between the detections that are each other's; each sure one has to be one's."""
    worst = {"boxes": 0.0, "scores": 0.0, "masks": 0.0}
    limits = {"boxes": pixels, "scores": SCORE, "masks": MASK}
    free = set(range(len(found["scores"])))
    for one in _sure(wanted, config).tolist():
        best, overlap = _nearest(wanted, one, found, sorted(free))
        if overlap < _SAME:
            raise _lacking(wanted, one, found, size, ("PyTorch", "the graph"))
        free.remove(best)
        here = {
            "boxes": float((wanted["boxes"][one] - found["boxes"][best]).abs().max()),
            "scores": float((wanted["scores"][one] - found["scores"][best]).abs()),
        }
        if "masks" in wanted:
            one_mask, other_mask = wanted["masks"][one], found["masks"][best]
            union = float(mask_api.area(mask_api.merge([one_mask, other_mask])))
            differing = union - float(mask_api.area(mask_api.merge([one_mask, other_mask], intersect=True)))
            here["masks"] = differing / union if differing > _FEW else 0.0
        for name, value in here.items():
            if not value <= limits[name]:
                raise UserError(
                    f"At {size} the graph's {name} differ from PyTorch's by {value:.1e}, more than {limits[name]:.1e}; nothing "
                    "is written. Try another --opset."
                )
            worst[name] = max(worst[name], value)
    for surplus in free.intersection(_sure(found, config).tolist()):
        raise _lacking(found, surplus, wanted, size, ("the graph", "PyTorch"))
    return worst


def _nearest(found: dict[str, Any], one: int, others: dict[str, Any], among: Sequence[int]) -> tuple[int, float]:
    """The number of the object of the same class that overlaps one most, and the overlap as IoU; 0 without one."""
    alike = [other for other in among if others["labels"][other] == found["labels"][one]]
    if not alike:
        return 0, 0.0
    overlaps = box_iou(found["boxes"][one][None], others["boxes"][alike])[0]
    return alike[int(overlaps.argmax())], float(overlaps.max())


def _lacking(found: dict[str, Any], one: int, others: dict[str, Any], size: str, names: tuple[str, str]) -> UserError:
    box = ", ".join(f"{side:.1f}" for side in found["boxes"][one].tolist())
    near, overlap = _nearest(found, one, others, range(len(others["scores"])))
    nearest = f" (the nearest: IoU {overlap:.3f}, score {float(others['scores'][near]):.6f})" if overlap else ""
    return UserError(
        f"At {size} {names[0]} finds an object of class {int(found['labels'][one])} at ({box}), score "
        f"{float(found['scores'][one]):.6f}, that {names[1]} lacks{nearest}; nothing is written. Two that overlap, of one "
        "score, are a tie that suppression may decide either way: compare on other pictures (--pictures)."
    )
