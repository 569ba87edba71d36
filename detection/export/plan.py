"""A detector's file as a plan: what is written of it, compared and measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from convmae.detection.checks.preflight import read_split
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData
from convmae.detection.evaluation.coco_metric import CocoMetric
from convmae.detection.export.agreement import as_found, compare
from convmae.detection.export.graph import DetectorGraph, check_views, ports
from convmae.detection.predict import open_detector
from convmae.engine.config import run_config, to_yaml
from convmae.engine.export.example_pictures import example_pictures
from convmae.engine.export.graphs import common_meta, run
from convmae.engine.export.plan import Plan
from convmae.engine.pictures.images import read_image, to_tensor


def plan_detector(
    weights: Path,
    recipe: str | None,
    overrides: Sequence[str],
    folder: Path | None = None,
    validation: Sequence[str] = (),
) -> Plan:
    """Returns the plan for a detector, compared on pictures of a folder or on drawn ones.

    validation: options of the recipe that name the data it is measured on; without them it is not.

    Raises UserError for a file that holds none, a recipe that a graph can't follow, or data that can't be read.
    """
    config = run_config(DetectionConfig, weights, recipe, [*overrides, *validation])
    check_views(config)
    data = None
    if validation:
        data = read_split(config.data, config.model.masks, config.model.detections, config.model.in_chans)
    model = open_detector(config, weights).eval()
    reading, side = config.data.reading(config.model.in_chans), config.data.img_size
    sizes = [(side, side), (side * 3 // 4, side), (side, side * 2 // 3), (side * 2 + 5, side * 3 // 2), (97, 131)]
    pictures = example_pictures(folder, sizes, reading)
    pixels = "RGB bytes [height, width, channels]"
    return Plan(
        DetectorGraph(model, config),
        torch.from_numpy(pictures[1][: side // 2]),
        ports(config.model.masks),
        common_meta("detector", model.dataset_meta["classes"], to_yaml(config), pixels),
        lambda session, path: compare(model, config, session, path, pictures),
        None if data is None else lambda session: evaluate(session, config, data),
        compared=pictures,
        calibration=example_pictures(folder, [], reading) if folder else (),
    )


def evaluate(session: Any, config: DetectionConfig, data: CocoData) -> dict[str, float]:
    """Returns COCO's numbers of a graph on pictures with annotations."""
    metric = CocoMetric(data, config.model.masks)
    reading = config.data.reading(config.model.in_chans)
    rows = []
    for record in data.images:
        pixels = to_tensor(read_image(data.path(record), reading)).permute(1, 2, 0).contiguous().numpy()
        rows.append(as_found(run(session, pixels), record.id))
    return metric.compute_metrics(rows)
