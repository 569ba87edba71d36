"""A segmenter as a graph: from pictures of any size as bytes to their class scores or labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convmae.backbones.position import smaller
from convmae.engine.class_lists import check_classes
from convmae.engine.config import run_config, to_yaml
from convmae.engine.errors import UserError
from convmae.engine.export.example_pictures import example_pictures
from convmae.engine.export.graphs import Ports, check_one_view, check_shapes, common_meta, run
from convmae.engine.export.operators import for_any_size
from convmae.engine.export.plan import Plan
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.dataset import SegmentationDataset
from convmae.segmentation.evaluation.scores import SegmentationMetric
from convmae.segmentation.model.upernet import UPerNet, build_model, check_options
from convmae.segmentation.model.weights import load_weights, read_class_names
from convmae.segmentation.train import find_data

TOLERANCE = 1e-3  # of the largest score: more than other kernels differ by, less than a wrong graph does
_BATCH = {0: "batch", 1: "height", 2: "width"}
PORTS = {
    "labels": Ports("images", _BATCH, {"labels": _BATCH}),
    "logits": Ports("images", _BATCH, {"logits": {0: "batch", 2: "height", 3: "width"}}),
}


class SegmenterGraph(nn.Module):
    """What ``UPerNet.predict`` does with one view of a picture, written so that it can be traced.

    From bytes [B, H, W, C] to ``logits`` fp32 [B, N, H, W], or ``labels`` uint8 [B, H, W] counted from 0.
    """

    mean: Tensor
    std: Tensor
    model: UPerNet

    def __init__(self, model: UPerNet, config: SegmentationConfig, output: str = "labels") -> None:
        """Raises UserError for a recipe that averages several views."""
        super().__init__()
        check_one_view(config.inference.scales, config.inference.flip)
        prepare = model.data_preprocessor
        self.register_buffer("mean", prepare.mean.clone())
        self.register_buffer("std", prepare.std.clone())
        self.model = for_any_size(copy.deepcopy(model))
        self.long, self.short = max(config.data.scale), min(config.data.scale)
        self.inference, self.output = config.inference, output

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[1], images.shape[2]
        pictures = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        # In fp64, as mmcv computes the size.
        sides = torch._shape_as_tensor(images)[1:3].double()
        factor = torch.minimum(self.long / sides.max(), self.short / sides.min())
        size = torch.floor(sides * factor + 0.5).clamp(min=1).long()
        copies = F.interpolate(pictures, size=(size[0], size[1]), mode="bilinear", align_corners=False)  # type: ignore[arg-type]
        scores = self._slide(copies) if self.inference.mode == "slide" else self.model.whole_inference(copies)
        scores = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
        return scores if self.output == "logits" else scores.argmax(1).to(torch.uint8)

    def _slide(self, pictures: Tensor) -> Tensor:
        """Scores of windows, all of them in one batch, averaged where they overlap: ``slide`` without its loop."""
        batch, channels, height, width = pictures.shape
        crop, stride = self.inference.crop, self.inference.stride
        tops, lefts = (Starts(side, crop, stride) for side in (height, width))
        windows = pictures[:, :, tops.pixels()][:, :, :, :, lefts.pixels()]  # [B, C, rows, tall, columns, wide]
        windows = windows.permute(2, 4, 0, 1, 3, 5).reshape(-1, channels, tops.length, lefts.length)
        scores = self.model.whole_inference(windows)
        grid = (tops.count, lefts.count, batch, -1, tops.length, lefts.length)
        scores = scores.reshape(*grid).permute(2, 3, 0, 4, 1, 5)  # [B, N, rows, tall, columns, wide]
        scores = tops.mean(scores.flatten(4).flatten(2, 3), 2)  # [B, N, height, columns * wide]
        scores = scores.reshape(batch, -1, height, lefts.count * lefts.length)
        return lefts.mean(scores, 3)


class Starts:
    """Where windows start along a side, as ``inference.slide`` has them: the last one moved back to the edge."""

    def __init__(self, side: int, crop: int, stride: int) -> None:
        self.side, self.length = side, smaller(crop, side)
        self.count = (side - self.length + stride - 1) // stride + 1
        free = torch.as_tensor(side - self.length)
        self.first = torch.minimum(torch.arange(self.count) * stride, free)
        self.most = -(-crop // stride) + 1  # windows that a pixel lies in

    def pixels(self) -> Tensor:
        """Returns the pixels [windows, length] of each window."""
        return self.first[:, None] + torch.arange(self.length)

    def mean(self, parts: Tensor, axis: int) -> Tensor:
        """Returns for each pixel of the side the mean over its windows, of parts with windows x length along an axis."""
        place = torch.arange(self.side)
        inside = (place[:, None] >= self.first) & (place[:, None] < self.first + self.length)
        number = inside.int().argmax(1)  # the first of a pixel's windows; the others follow it
        times = inside.sum(1)
        total = None
        for later in range(self.most):
            window = torch.minimum(number + later, number + times - 1)
            found = parts.index_select(axis, window * self.length + place - self.first[window])
            weight = ((later < times).to(parts.dtype) / times).reshape([-1] + [1] * (parts.ndim - 1 - axis))
            total = found * weight if total is None else total + found * weight
        assert total is not None
        return total


def plan_segmenter(
    weights: Path,
    recipe: str | None,
    overrides: Sequence[str],
    folder: Path | None = None,
    validation: Sequence[str] = (),
    output: str = "labels",
) -> Plan:
    """Returns the plan for a segmenter with one of the outputs of ``PORTS``, as ``plan_detector`` does for a detector.

    Raises UserError for a file that holds none, or names no classes, and otherwise as that does.
    """
    config = run_config(SegmentationConfig, weights, recipe, [*overrides, *validation])
    check_options(config, training=False)
    check_one_view(config.inference.scales, config.inference.flip)
    classes = read_class_names(weights)
    if not classes:
        raise UserError(f"{weights} does not name its classes; expected the model.pth of a run.")
    data = None
    if validation:
        names, found = find_data(config, ("validation",))
        check_classes("the segmenter", classes, names, "the class list")
        data = SegmentationDataset(found.pairs, names, config.data, False, config.model.in_chans)
    model = build_model(config, len(classes))
    load_weights(model, weights, classes)
    model.eval()
    reading, side = config.data.reading(config.model.in_chans), config.data.crop
    sizes = [(side, side), (side * 3 // 4, side), (97, 131), (33, 250), (side * 3 // 2, side * 2)]
    pictures = [one[None] for one in example_pictures(folder, sizes, reading)]
    pictures[1] = np.concatenate([pictures[1], pictures[1][:, ::-1]])  # a batch
    graph = SegmenterGraph(model, config, output)
    return Plan(
        graph,
        example(config),
        PORTS[output],
        common_meta("segmenter", classes, to_yaml(config), "RGB bytes [batch, height, width, channels]"),
        lambda session, _: compare(graph, model, session, pictures),
        None if data is None else lambda session: evaluate(session, data, classes),
        compared=pictures,
        calibration=[one[None] for one in example_pictures(folder, [], reading)] if folder else (),
    )


def example(config: SegmentationConfig) -> Tensor:
    """Returns a batch to trace with."""
    return torch.zeros(2, config.data.crop + 8, config.data.crop + 56, config.model.in_chans, dtype=torch.uint8)


def compare(
    graph: SegmenterGraph, model: UPerNet, session: Any, batches: Sequence[NDArray[np.uint8]]
) -> tuple[list[str], dict[str, float]]:
    """Returns a line for each batch of pictures [B, H, W, C], and the largest difference: of logits, over the largest one; of
    labels, the share of a batch's that are others.

    Labels are compared with those of ``model.test_step``. One may be another where its score is within the tolerance of the
    best: a tie.

    Raises UserError saying what differs and how much.
    """
    lines, worst = [], 0.0
    for images in batches:
        size = f"{images.shape[0]} x {images.shape[1]}x{images.shape[2]}"
        pixels = torch.from_numpy(images)
        with torch.inference_mode():
            samples = model.test_step({"inputs": list(pixels.permute(0, 3, 1, 2))})
            wanted = torch.stack([sample.pred_sem_seg.data[0] for sample in samples])
            output, graph.output = graph.output, "logits"
            scores = graph(pixels)
            graph.output = output
        (found,) = map(torch.from_numpy, run(session, images))
        check_shapes([output], [scores if output == "logits" else wanted], [found], size)
        limit, difference = scores.abs().max() * TOLERANCE, 0.0
        if output == "logits":
            difference = float((scores - found).abs().max() / scores.abs().max())
            labels = found.argmax(1)
        else:
            labels = found.long()
        others = labels != wanted
        behind = (scores.amax(1) - scores.gather(1, labels[:, None])[:, 0])[others]
        if difference > TOLERANCE or not bool(torch.isfinite(scores).all()):
            raise UserError(
                f"At {size} logits differ from PyTorch by {difference:.1e} of the largest, more than {TOLERANCE:g}; nothing is "
                "written. Try another --opset."
            )
        if bool((behind > limit).any()):
            share = float(((scores.amax(1) - scores.gather(1, labels[:, None])[:, 0]) > limit).float().mean())
            raise UserError(
                f"At {size} labels differ from PyTorch in {100 * share:.2f} % of the pixels, by scores that are no ties; "
                "nothing is written. Try another --opset."
            )
        worst = max(worst, difference if output == "logits" else float(others.float().mean()))
        logits = f"logits differ by {difference:.1e}, " if output == "logits" else ""
        lines.append(f"{size}: {logits}{int(others.sum())} of {others.numel()} labels differ, ties")
    return lines, {output: worst}


def evaluate(session: Any, data: SegmentationDataset, classes: Sequence[str]) -> dict[str, float]:
    """Returns mIoU and the rest of a graph on pictures with label maps."""
    metric = SegmentationMetric(list(classes))
    results = []
    for index in range(len(data)):
        one = data[index]
        (labels,) = run(session, one["inputs"].permute(1, 2, 0)[None].contiguous().numpy())
        labels = labels.argmax(1) if labels.ndim == 4 else labels
        sample = {"pred_sem_seg": {"data": torch.from_numpy(labels)}, "img_path": one["data_samples"].img_path}
        results.append(metric.measure({**sample, "gt_sem_seg": {"data": one["data_samples"].gt_sem_seg.data}}))
    return metric.compute_metrics(results)
