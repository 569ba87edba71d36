"""Mask R-CNN (arXiv 1703.06870) on ConvViTDet, in the form of the published ConvMAE detectors, or as a cascade."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from convmae.backbones import ConvViTDet
from convmae.detection.config import ModelOptions
from convmae.detection.model.anchors import Anchors
from convmae.detection.model.boxes import BoxCoder, Matcher
from convmae.detection.model.heads import BoxPredictor, ProposalHead, box_head, mask_head, mask_predictor, norm_layer
from convmae.detection.model.pooler import Pooler
from convmae.detection.model.proposals import Counts, ProposalNetwork
from convmae.detection.model.pyramid import SimplePyramid, TopDownPyramid
from convmae.detection.model.roi_heads import BoxStage, DetectionHeads, Detections

# Of a cascade's box stages (arXiv 1712.00726; Mask R-CNN has the first), in detectron2's numbers: from which overlap on a box
# is an object's, and how its deltas are weighted.
BOX_STAGES = (
    (Matcher(0.5, 0.5), BoxCoder((10.0, 10.0, 5.0, 5.0))),
    (Matcher(0.6, 0.6), BoxCoder((20.0, 20.0, 10.0, 10.0))),
    (Matcher(0.7, 0.7), BoxCoder((30.0, 30.0, 15.0, 15.0))),
)
PYRAMIDS: dict[str, type[TopDownPyramid | SimplePyramid]] = {"fpn": TopDownPyramid, "simple": SimplePyramid}


class MaskRCNN(nn.Module):
    """Encoder, feature pyramid, proposals, box and mask heads."""

    def __init__(
        self, options: ModelOptions, classes: int, img_size: int, checkpoint_activations: bool = False
    ) -> None:
        super().__init__()
        channels, norm = options.fpn_channels, options.norm
        self.backbone = ConvViTDet(
            options.size,
            img_size=img_size,
            window_size=options.window_size,
            global_blocks=options.global_blocks or None,
            drop_path_rate=options.drop_path,
            checkpoint_activations=checkpoint_activations,
            attend_to_padding=options.attend_to_padding,
            position=options.position,
            pretrain_img_size=options.pretrain_img_size or None,
            in_chans=options.in_chans,
        )
        self.fpn = PYRAMIDS[options.pyramid](self.backbone.out_channels, channels, norm_layer(norm))
        strides = tuple(self.backbone.strides)
        anchors = Anchors(options.anchor_sizes, options.anchor_ratios, (*strides, 2 * strides[-1]))
        self.rpn = ProposalNetwork(
            anchors,
            ProposalHead(channels, len(options.anchor_ratios), options.rpn_convs),
            Counts(options.pre_nms_train, options.pre_nms_test),
            Counts(options.post_nms_train, options.post_nms_test),
            options.rpn_sampled,
        )
        mask_parts = None
        if options.masks:
            widths = options.mask_convs
            mask_parts = (
                Pooler(14, strides, options.canonical_size),
                mask_head(channels, widths, norm),
                mask_predictor(widths[-1] if widths else channels, classes),
            )
        stages = [
            BoxStage(
                box_head(channels, 7, options.box_convs, options.box_hidden, norm),
                BoxPredictor(options.box_hidden[-1], classes, moves=1 if options.cascade else classes),
                matcher,
                coder,
            )
            for matcher, coder in (BOX_STAGES if options.cascade else BOX_STAGES[:1])
        ]
        self.roi_heads = DetectionHeads(
            Pooler(7, strides, options.canonical_size),
            stages,
            mask_parts,
            sampled=options.roi_sampled,
            score_threshold=options.score_threshold,
            nms_threshold=options.nms_threshold,
            detections=options.detections,
        )
        for part in (self.fpn, self.rpn, self.roi_heads):  # the encoder's maps are channels-last in memory
            part.to(memory_format=torch.channels_last)

    def features(self, images: Tensor, frame: tuple[int, int] | None = None) -> list[Tensor]:
        """Returns p2..p6 [B, fpn_channels, H / stride, W / stride] of normalised images [B, in_chans, H, W].

        frame: as of ``ConvViTDet.forward``.
        """
        return self.fpn(self.backbone(images) if frame is None else self.backbone(images, frame))

    def static_methods(self) -> list[Callable]:
        """Returns what can be compiled: the encoder, and the pyramid if its norms don't wait for other processes."""
        waits = get_world_size() > 1 and any(isinstance(module, nn.SyncBatchNorm) for module in self.fpn.modules())
        return [self.backbone.forward] if waits else [self.backbone.forward, self.fpn.forward]

    def forward(
        self,
        images: Tensor,
        targets: list[dict[str, Tensor]] | None = None,
        sizes: list[tuple[int, int]] | None = None,
        frame: tuple[int, int] | None = None,
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """Returns detections and losses; in training, with ``targets``, the losses, else the detections.

        images: [B, C, H, W], normalised; sizes: height and width of each picture inside its padding; boxes are clipped to it;
        frame: height and width before padding was cut off.
        """
        sizes = sizes or [(images.shape[-2], images.shape[-1])] * len(images)
        pyramid = self.features(images, frame)
        # p6 is for the proposals alone.
        proposals, losses = self.rpn(pyramid, sizes, targets)
        detections, head_losses = self.roi_heads(pyramid[:-1], proposals, sizes, targets)
        return detections, {**losses, **head_losses}
