"""A detector of this project in detectron2, which has to be installed, by configs/detectron2_mask_rcnn_convmae_25e.py."""

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
from convmae.detection.model.convert import detector_to_detectron2
from convmae.detection.model.heads import norm_layer

RECIPE = "detectron2_mask_rcnn_convmae_25e.py"


def build(
    config: DetectionConfig, state: Mapping[str, Tensor], widths: Sequence[int], classes: int, device: torch.device
) -> Callable[[Tensor, Sequence[Sample]], list[dict[str, Any]]]:
    """Returns a function of squares and their samples that gives detectron2's detections in the pictures' own pixels.

    state: weights of a `MaskRCNN`; widths: channels of the encoder's maps, which detectron2 asks the encoder for.
    Raises UserError for a recipe that the config can't be given the sizes of.
    """
    check_recipe(config)
    from detectron2.config import LazyConfig, instantiate

    recipe = LazyConfig.load(str(resources.files("convmae.configs") / RECIPE)).model
    set_sizes(recipe, config, classes)
    model = instantiate(recipe).eval().to(device)
    given = detector_to_detectron2(state, "the detector").state
    index = {name for name in given if name.endswith("relative_position_index")}  # our encoder makes it of its windows
    model.load_state_dict({name: value for name, value in given.items() if name not in index})

    def detect(images: Tensor, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        given = [
            {"image": part, "height": sample.height, "width": sample.width}
            for part, sample in zip(contents(images, samples), samples, strict=True)
        ]
        found = [one["instances"].to("cpu") for one in model(given)]
        return [
            {
                "image_id": sample.image_id,
                "boxes": one.pred_boxes.tensor,
                "scores": one.scores,
                "labels": one.pred_classes,
                "masks": rle.encode(one.pred_masks),
            }
            for one, sample in zip(found, samples, strict=True)
        ]

    return detect


def set_sizes(model: Any, config: DetectionConfig, classes: int) -> None:
    """Gives the config's model, a tree of detectron2's, the sizes of a recipe."""
    options, channels, heads = config.model, config.model.fpn_channels, model.roi_heads
    norm: Any = {"bn": "BN", "syncbn": "BN", "none": ""}.get(options.norm, norm_layer(options.norm))
    model.backbone.bottom_up.update(encoder_options(config))
    model.backbone.out_channels = model.proposal_generator.head.in_channels = channels
    model.backbone.norm = heads.box_head.conv_norm = heads.mask_head.conv_norm = norm
    model.proposal_generator.update(
        pre_nms_topk=(options.pre_nms_train, options.pre_nms_test),
        post_nms_topk=(options.post_nms_train, options.post_nms_test),
    )
    model.proposal_generator.head.update(conv_dims=[-1] * options.rpn_convs, num_anchors=len(options.anchor_ratios))
    model.proposal_generator.anchor_generator.update(
        sizes=[[size] for size in options.anchor_sizes], aspect_ratios=list(options.anchor_ratios)
    )
    for pooler in (heads.box_pooler, heads.mask_pooler):
        pooler.canonical_box_size = options.canonical_size
    heads.num_classes = classes
    heads.box_head.update(conv_dims=list(options.box_convs), fc_dims=list(options.box_hidden))
    heads.box_head.input_shape.channels = heads.mask_head.input_shape.channels = channels
    heads.box_predictor.input_shape.channels = options.box_hidden[-1]
    heads.box_predictor.update(
        test_score_thresh=options.score_threshold,
        test_nms_thresh=options.nms_threshold,
        test_topk_per_image=options.detections,
    )
    masks = list(options.mask_convs)
    heads.mask_head.conv_dims = [*masks, masks[-1] if masks else channels]  # the last is the upsampling's
