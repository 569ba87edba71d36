"""UPerNet with an auxiliary head on ConvViTSeg: mmseg's parts, built from the options."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.dist import get_world_size
from mmengine.model import initialize
from mmengine.registry import DefaultScope
from torch import nn

from convmae.backbones import Dims
from convmae.backbones.layers import rand_samples
from convmae.engine.errors import UserError
from convmae.engine.images import IMAGENET_MEAN, IMAGENET_STD
from convmae.engine.precision import resolve_device
from convmae.segmentation import backbone as _registers_backbone  # noqa: F401
from convmae.segmentation.config import ModelOptions, SegmentationConfig
from convmae.segmentation.layout import IGNORE
from convmae.segmentation.mmseg_parts import MODELS, EncoderDecoder, SegDataPreProcessor


@MODELS.register_module()
class UPerNet(EncoderDecoder):
    """mmseg's EncoderDecoder with windows computed in batches, small pictures padded, and label maps as its only output.

    ``forward(inputs [B, 3, H, W], data_samples, mode)`` gives the losses, or samples with ``pred_sem_seg`` [1, H, W].
    """

    def slide_inference(self, inputs: torch.Tensor, batch_img_metas: list[dict]) -> torch.Tensor:
        """Returns scores [B, N, H, W], averaged where windows overlap; a picture smaller than a window is padded to it."""
        height, width = inputs.shape[2:]
        crop, stride = self.test_cfg.crop_size, self.test_cfg.stride
        # Zero is the mean colour after normalisation, which training crops are padded with too.
        inputs = F.pad(inputs, (0, max(crop[1] - width, 0), 0, max(crop[0] - height, 0)))
        rows = _starts(inputs.shape[2], crop[0], stride[0])
        columns = _starts(inputs.shape[3], crop[1], stride[1])
        corners = [(top, left) for top in rows for left in columns]
        scores = inputs.new_zeros((inputs.shape[0], self.out_channels, *inputs.shape[2:]), dtype=torch.float32)
        times = inputs.new_zeros((1, 1, *inputs.shape[2:]), dtype=torch.float32)
        metas = [{"img_shape": torch.Size(crop)}]
        for some in _batches(corners, self.test_cfg.get("window_batch", 1)):
            windows = [inputs[:, :, top : top + crop[0], left : left + crop[1]] for top, left in some]
            logits = self.encode_decode(torch.cat(windows), metas).float().split(inputs.shape[0])
            for (top, left), window_logits in zip(some, logits, strict=True):
                scores[:, :, top : top + crop[0], left : left + crop[1]] += window_logits
                times[:, :, top : top + crop[0], left : left + crop[1]] += 1
        return (scores / times)[:, :, :height, :width]

    def postprocess_result(self, seg_logits: torch.Tensor, data_samples: list | None = None) -> list:
        """Returns mmseg's samples without their scores, which would take 150 floats a pixel."""
        samples = super().postprocess_result(seg_logits.float(), data_samples)
        for sample in samples:
            del sample.seg_logits
        return samples


class ChannelDropout(nn.Dropout2d):
    """Drops whole channels of [B, C, H, W], drawn for the global batch as drop path is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        kept = (rand_samples(*x.shape[:2], device=x.device) >= self.p).to(x.dtype) / (1 - self.p)
        return x * kept[:, :, None, None]


def build_model(config: SegmentationConfig, num_classes: int) -> UPerNet:
    """Returns UPerNet with fresh weights; its names are the public ``backbone.*``, ``decode_head.*``, ``auxiliary_head.*``."""
    options, inference, crop = config.model, config.inference, config.data.crop
    widths = Dims.of(options.size).embed_dims
    with DefaultScope.overwrite_default_scope("mmseg"), warnings.catch_warnings():  # a runner made earlier set its own
        # mmseg suggests one output for two classes, and another average over ignored pixels than the published runs used.
        warnings.filterwarnings("ignore", message=".*(binary segmentation|avg_non_ignore).*")
        model = UPerNet(
            backbone={
                "type": "ConvViTSeg",
                "size": options.size,
                "img_size": crop,
                "drop_path_rate": options.drop_path,
                "checkpoint_activations": config.runtime.checkpoint_activations,
            },
            decode_head={
                "type": "UPerHead",
                "in_channels": [*widths, widths[2]],
                "in_index": [0, 1, 2, 3],
                "pool_scales": tuple(options.pool_scales),
                **_head(options, options.decode_channels, num_classes, 1.0),
            },
            auxiliary_head={
                "type": "FCNHead",
                "in_channels": widths[2],
                "in_index": 2,
                "num_convs": 1,
                "concat_input": False,
                **_head(options, options.aux_channels, num_classes, options.aux_weight),
            }
            if options.aux_weight > 0
            else None,
            test_cfg=ConfigDict(
                mode=inference.mode,
                crop_size=(inference.crop, inference.crop),
                stride=(inference.stride, inference.stride),
                window_batch=inference.window_batch,
            ),
            data_preprocessor=SegDataPreProcessor(
                mean=[255 * mean for mean in IMAGENET_MEAN],
                std=[255 * std for std in IMAGENET_STD],
                size=(crop, crop),
                seg_pad_val=IGNORE,
            ),
        )
    for head in (model.decode_head, model.auxiliary_head) if model.with_auxiliary_head else (model.decode_head,):
        # Not init_weights(), which prints every tensor's name; the rest is done already.
        initialize(head, head.init_cfg)
        head.dropout = ChannelDropout(options.dropout)
    if get_world_size() > 1 and resolve_device(config.runtime.device).type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def check_options(config: SegmentationConfig, training: bool = True) -> None:
    """Raises UserError for options that can't work together."""
    inference = config.inference
    if not 0 < inference.stride <= inference.crop:
        raise UserError(
            f"inference.stride is {inference.stride} with windows of {inference.crop} pixels; expected 1 to inference.crop, "
            "or pixels between windows would be left out."
        )
    share = config.data.batch_size // (config.data.accumulate * get_world_size())
    if training and share < 2 and 1 in config.model.pool_scales and get_world_size() == 1:
        raise UserError(
            f"data.batch_size {config.data.batch_size} in {config.data.accumulate} parts leaves one picture a part; expected "
            "two or more, because UPerNet's 1x1 pooling is batch-normalised. Lower data.accumulate or raise the batch."
        )


def _head(options: ModelOptions, channels: int, num_classes: int, weight: float) -> dict[str, Any]:
    return {
        "channels": channels,
        "num_classes": num_classes,
        "dropout_ratio": options.dropout,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "align_corners": False,
        "ignore_index": IGNORE,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": weight},
    }


def _starts(length: int, crop: int, stride: int) -> list[int]:
    """Returns where windows start along a side: every ``stride`` pixels, the last one moved back to the edge."""
    count = -(-(length - crop) // stride) + 1
    return [min(number * stride, length - crop) for number in range(count)]


def _batches(items: list, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
