"""A detector of this project in mmdet, which has to be installed, by configs/mmdet_mask_rcnn_convmae_25e.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from convmae.benchmarks.frameworks.sizes import check_recipe, contents, encoder_options
from convmae.detection.config import DetectionConfig
from convmae.detection.data import rle
from convmae.detection.data.dataset import Sample
from convmae.detection.model.convert_mmdet import check_norm, detector_to_mmdet
from convmae.detection.model.heads import norm_layer
from convmae.engine.errors import UserError

RECIPE = "mmdet_mask_rcnn_convmae_25e.py"


def build(
    config: DetectionConfig, state: Mapping[str, Tensor], widths: Sequence[int], classes: int, device: torch.device
) -> Callable[[Tensor, Sequence[Sample]], list[dict[str, Any]]]:
    """Returns a function of squares and their samples that gives mmdet's detections in the pictures' own pixels.

    state: weights of a `MaskRCNN`; widths: channels of the encoder's maps.
    Raises UserError for a recipe that the config can't be given the sizes of, and for another mmdet than ours.
    """
    check_recipe(config)
    check_norm(config.model.norm, "the recipe")
    import convmae.detection.mmdet  # noqa: F401

    # isort: split
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    recipe = Config.fromfile(str(resources.files("convmae.configs") / RECIPE))
    recipe.merge_from_dict({f"model.{name}": value for name, value in sizes(config, widths, classes).items()})
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(recipe.model).eval().to(device)
    model.load_state_dict(detector_to_mmdet(state, "the detector")[0].state)

    def detect(images: Tensor, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        parts = [part.flip(0) for part in contents(images, samples)]  # OpenCV's order, which the config expects
        shapes = [
            DetDataSample(
                metainfo={
                    "img_shape": sample.geometry.content,
                    "ori_shape": (sample.height, sample.width),
                    "scale_factor": sample.geometry.scale,
                }
            )
            for sample in samples
        ]
        found = [one.pred_instances for one in model.test_step({"inputs": parts, "data_samples": shapes})]
        return [
            {
                "image_id": sample.image_id,
                "boxes": one.bboxes.cpu(),
                "scores": one.scores.cpu(),
                "labels": one.labels.cpu(),
                "masks": rle.encode(one.masks.cpu()),
            }
            for one, sample in zip(found, samples, strict=True)
        ]

    return detect


def sizes(config: DetectionConfig, widths: Sequence[int], classes: int) -> dict[str, Any]:
    """Returns what makes the config's model one of a recipe's sizes, by dotted names. Raises UserError where it can't be."""
    options, channels = config.model, config.model.fpn_channels
    box, hidden, mask = (_one_width(name, getattr(options, name)) for name in ("box_convs", "box_hidden", "mask_convs"))
    found = {
        "data_preprocessor.side": config.data.img_size,
        "neck.in_channels": list(widths),
        "neck.out_channels": channels,
        "neck.norm_cfg": _norm(options.norm, channels),
        "rpn_head.in_channels": channels,
        "rpn_head.feat_channels": channels,
        "rpn_head.num_convs": options.rpn_convs,
        "rpn_head.anchor_generator.base_sizes": options.anchor_sizes,
        "rpn_head.anchor_generator.ratios": options.anchor_ratios,
        "roi_head.bbox_head.num_shared_convs": len(options.box_convs),
        "roi_head.bbox_head.num_shared_fcs": len(options.box_hidden),
        "roi_head.bbox_head.in_channels": channels,
        "roi_head.bbox_head.conv_out_channels": box or channels,
        "roi_head.bbox_head.fc_out_channels": hidden,
        "roi_head.bbox_head.num_classes": classes,
        "roi_head.bbox_head.norm_cfg": _norm(options.norm, box or channels),
        "roi_head.mask_head.num_convs": len(options.mask_convs),
        "roi_head.mask_head.in_channels": channels,
        "roi_head.mask_head.conv_out_channels": mask or channels,
        "roi_head.mask_head.num_classes": classes,
        "roi_head.mask_head.norm_cfg": _norm(options.norm, mask or channels),
        "test_cfg.rpn.nms_pre": options.pre_nms_test,
        "test_cfg.rpn.max_per_img": options.post_nms_test,
        "test_cfg.rcnn.score_thr": options.score_threshold,
        "test_cfg.rcnn.nms.iou_threshold": options.nms_threshold,
        "test_cfg.rcnn.max_per_img": options.detections,
    }
    found |= {f"backbone.{name}": value for name, value in encoder_options(config).items()}
    for part in ("bbox", "mask"):
        found[f"roi_head.{part}_roi_extractor.out_channels"] = channels
        found[f"roi_head.{part}_roi_extractor.finest_scale"] = options.canonical_size / 4
    return found


def _one_width(name: str, widths: Sequence[int]) -> int:
    """Returns the width of a head's layers, 0 if there are none. Raises UserError for several, which mmdet's heads lack."""
    if len(set(widths)) > 1:
        raise UserError(f"model.{name} is {list(widths)}; expected one width, as mmdet's heads have.")
    return widths[0] if widths else 0


def _norm(name: str, channels: int) -> dict[str, Any] | None:
    if name == "gn":
        made: Any = norm_layer(name)
        return {"type": "GN", "num_groups": made(channels).num_groups}
    return None if name == "none" else {"type": "BN"}
