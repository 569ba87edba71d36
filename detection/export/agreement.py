"""Whether a detector's graph finds what PyTorch finds, picture by picture, and what the differences are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_api
from torch import Tensor
from torchvision.ops import box_iou

from convmae.detection.config import DetectionConfig
from convmae.detection.data.dataset import Sample, collate_test, fitted
from convmae.detection.export.graph import Square
from convmae.detection.export.ties import PIXELS, SCORE, inputs_of_suppression, settled
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.errors import UserError
from convmae.engine.export.graphs import OPSETS, Ports, open_session, run, write_graph

LEVELS = 1  # grey levels that the graph's square may be from Pillow's: onnxruntime rounds some pixels the other way
MASK = 0.005  # share of a mask's pixels that may differ; for boxes and scores see `ties`
_SAME = 0.8  # IoU of two boxes above which they are of one object; suppression leaves none so near
_FEW = 2  # pixels of a mask that may differ however small it is


def _resizer(config: DetectionConfig) -> Any:
    """The session of a graph of ``Square`` alone: the pixels that the whole graph looks at."""
    with TemporaryDirectory() as folder:
        path, example = Path(folder) / "square.onnx", torch.zeros(8, 12, config.model.in_chans, dtype=torch.uint8)
        inner = Ports("image", {0: "height", 1: "width"}, {"square": {}, "inside": {}})
        write_graph(Square(config), example, inner, path, OPSETS[0], {})
        return open_session(path, 1)


def seen(config: DetectionConfig, resizer: Any, image: NDArray[np.uint8]) -> tuple[Tensor, Sample, int]:
    """Returns the graph's square of a picture [H, W, C], bytes [1, C, side, side], the way back, and levels from Pillow's."""
    channels = config.model.in_chans
    picture = Image.fromarray(image) if channels == 3 else torch.from_numpy(image.transpose(2, 0, 1).copy())
    batch = collate_test([fitted(picture, 0, (config.data.img_size,), config.data.padding)])
    square = torch.from_numpy(run(resizer, image)[0])
    levels = int((square - batch["images"][0]).abs().max())
    return square.to(torch.uint8), batch["samples"][0], levels


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
    model: DetectionModel, config: DetectionConfig, session: Any, path: Path, pictures: Sequence[NDArray[np.uint8]]
) -> tuple[list[str], dict[str, float]]:
    """Returns a line for each picture [H, W, C], and the largest differences of boxes (pixels), scores and masks (a share).

    The graph's square may be a grey level from Pillow's. On that very square each of PyTorch's detections has to be in the
    graph's, of its class, within the tolerances, and each of the graph's in PyTorch's. Left out, and counted, are those whose
    score is as near to the threshold, or to the last that is kept. Where suppression decides otherwise than in PyTorch, what
    goes into it, as the graph's file has it, has to be PyTorch's and what comes out right: a tie (``settled``).

    Raises UserError saying what differs and how much, or that nothing was found to be compared.
    """
    lines, worst, total, resizer = [], {"boxes": 0.0, "scores": 0.0, "masks": 0.0}, 0, _resizer(config)
    for image in pictures:
        size = f"{image.shape[0]}x{image.shape[1]}"
        square, sample, levels = seen(config, resizer, image)
        if levels > LEVELS:
            raise UserError(
                f"At {size} the graph's resized picture is up to {levels} grey levels from Pillow's, more than {LEVELS}; "
                "nothing is written. Try another version of onnxruntime."
            )
        found = as_found(run(session, image))
        pixels = PIXELS * max(1.0, max(image.shape[:2]) / config.data.img_size)
        with torch.inference_mode():
            (wanted,) = model([square], samples=[sample], mode="predict")
        tie = ""
        try:
            here = _differences(wanted, found, config, pixels, size)
        except UserError:
            decided = settled(model, square, sample, inputs_of_suppression(path, image))
            if decided is None:
                raise
            here = _differences(decided.found, found, config, pixels, size)
            here["boxes"] = max(here["boxes"], decided.boxes * pixels / PIXELS)
            here["scores"] = max(here["scores"], decided.scores)
            tie = f"; a tie in suppression, whose boxes and scores are within {decided.boxes:.1e} px and {decided.scores:.1e}"
        worst = {name: max(value, here[name]) for name, value in worst.items()}
        sure = len(_sure(wanted, config))
        total, left_out = total + sure, len(wanted["scores"]) - sure
        parts = f"boxes {here['boxes']:.1e} px, scores {here['scores']:.1e}"
        masks = f", masks {here['masks']:.1e} of a mask's pixels" if "masks" in wanted else ""
        resized = "resized within a grey level of Pillow" if levels else "resized as Pillow does"
        lines.append(f"{size}: {resized}; {sure} objects ({left_out} at the threshold left out), {parts}{masks}{tie}")
    if not total:
        raise UserError(
            "The model finds nothing in these pictures, so nothing was compared and nothing is written; give a folder of "
            "pictures with objects by --pictures."
        )
    return lines, worst


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
        f"{float(found['scores'][one]):.6f}, that {names[1]} lacks{nearest}, and it is no tie in suppression; nothing is "
        "written. Try another --opset."
    )
