"""UPerNet with an auxiliary head on ConvViTSeg: mmseg's parts, built from the options."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_world_size
from mmengine.model import initialize
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import nn

from convmae.backbones import Dims
from convmae.backbones.layers import rand_samples
from convmae.engine.errors import UserError
from convmae.engine.options import check_scales
from convmae.engine.pictures.images import channel_statistics
from convmae.segmentation import backbone as _registers_backbone  # noqa: F401
from convmae.segmentation.config import ModelOptions, SegmentationConfig
from convmae.segmentation.data.batches import CropPreProcessor
from convmae.segmentation.data.dataset import picture_scale
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.mmseg_parts import MODELS, BaseDecodeHead, EncoderDecoder, SegDataSample
from convmae.segmentation.model.heads import AuxiliaryHead, PyramidHead
from convmae.segmentation.model.inference import Score, label, probabilities, slide


@MODELS.register_module()
class UPerNet(EncoderDecoder):
    """mmseg's EncoderDecoder with inference of its own (``segmentation.inference``) and label maps as its only output.

    ``forward(inputs [B, in_chans, H, W], data_samples, mode)`` gives the losses, or samples with ``pred_sem_seg`` [1, H, W].
    ``test_cfg`` says how a picture is labelled: ``mode``, ``crop_size`` and ``stride`` as in mmseg, and ``window_batch``,
    ``scale``, ``scales`` and ``flip``.
    """

    def val_step(self, data: dict[str, Any]) -> list[SegDataSample]:
        """Returns the labelled samples of a batch of pictures of any sizes: those of one size are labelled together."""
        alike: dict[torch.Size, list[int]] = {}
        for index, picture in enumerate(data["inputs"]):
            alike.setdefault(picture.shape, []).append(index)
        found: dict[int, SegDataSample] = {}
        for indices in alike.values():
            part = {name: [values[index] for index in indices] for name, values in data.items()}
            found.update(zip(indices, super().val_step(part), strict=True))
        return [found[index] for index in range(len(found))]

    def whole_inference(self, inputs: torch.Tensor, batch_img_metas: list[dict] | None = None) -> torch.Tensor:
        """Returns scores [B, N, H, W] of whole pictures."""
        return self.encode_decode(inputs, [{"img_shape": inputs.shape[2:]}])

    def slide_inference(self, inputs: torch.Tensor, batch_img_metas: list[dict] | None = None) -> torch.Tensor:
        """Returns scores [B, N, H, W] from square windows."""
        crop, stride = self.test_cfg.crop_size[0], self.test_cfg.stride[0]
        return slide(self.whole_inference, inputs, crop, stride, self.test_cfg.get("window_batch", 1))

    def predict(self, inputs: torch.Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Returns the samples with ``pred_sem_seg``, int64 [1, H, W], of normalised pictures [B, C, H, W] in their own size."""
        labels = label(*self._inference(inputs))
        samples = data_samples or [SegDataSample() for _ in labels]
        for sample, found in zip(samples, labels, strict=True):
            sample.pred_sem_seg = PixelData(data=found[None])
        return samples

    def probabilities(self, pictures: list[torch.Tensor]) -> torch.Tensor:
        """Returns the probability of each class, float32 [B, N, H, W], of pictures of one size, bytes [C, H, W] each."""
        return probabilities(*self._inference(self.data_preprocessor({"inputs": pictures}, False)["inputs"]))

    def _inference(
        self, inputs: torch.Tensor
    ) -> tuple[Score, torch.Tensor, Sequence[int] | None, Sequence[float], bool]:
        """Returns what ``label`` and ``probabilities`` take, as ``test_cfg`` says."""
        config = self.test_cfg
        score = self.slide_inference if config.mode == "slide" else self.whole_inference
        return score, inputs, config.get("scale"), config.get("scales", (1.0,)), config.get("flip", False)


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
    # One for all channels or one for each of three, says mmengine: of other pictures than RGB all are the same.
    means, deviations = (
        values[:3] if options.in_chans == 3 else values[:1] for values in channel_statistics(options.in_chans)
    )
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
                "downsample": options.downsample,
                "in_chans": options.in_chans,
            },
            decode_head={
                "type": PyramidHead,
                "in_channels": [*widths, widths[2]],
                "in_index": [0, 1, 2, 3],
                "pool_scales": tuple(options.pool_scales),
                **_head(options, options.decode_channels, num_classes, 1.0),
            },
            auxiliary_head={
                "type": AuxiliaryHead,
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
                scale=picture_scale(config.data),
                scales=inference.scales,
                flip=inference.flip,
            ),
            data_preprocessor=CropPreProcessor(
                mean=[255 * mean for mean in means],
                std=[255 * std for std in deviations],
                size=(crop, crop),
                seg_pad_val=IGNORE,
            ),
        )
    for head in heads(model):
        # Not init_weights(), which prints every tensor's name; the rest is done already.
        initialize(head, head.init_cfg)
        head.dropout = ChannelDropout(options.dropout)
        head.to(
            memory_format=torch.channels_last
        )  # as the encoder's maps lie, so that no convolution turns its weights
    if get_world_size() > 1:  # batch norm counts the pictures of all processes
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def heads(model: UPerNet) -> list[BaseDecodeHead]:
    """Returns the heads that have a loss: the decoder, and the auxiliary one if there is one."""
    return [model.decode_head, model.auxiliary_head] if model.with_auxiliary_head else [model.decode_head]


def check_options(config: SegmentationConfig, training: bool = True) -> None:
    """Raises UserError for options that can't work together."""
    inference, ratios = config.inference, config.data.ratio_range
    if inference.mode == "slide" and inference.stride > inference.crop:
        raise UserError(
            f"inference.stride is {inference.stride} with windows of {inference.crop} pixels; expected 1 to inference.crop, "
            "or pixels between windows would be left out."
        )
    check_scales(inference.scales)
    if ratios[0] > ratios[1]:
        raise UserError(
            f"data.ratio_range is {ratios}; expected the smallest and the largest factor, such as [0.5, 2.0]."
        )
    if training and config.data.photometric and config.model.in_chans != 3:
        raise UserError(
            f"data.photometric distorts the colours of RGB pictures, model.in_chans is {config.model.in_chans}; set "
            "data.photometric=false."
        )
    one_token = config.data.crop <= {"conv": 64, "max_pool": 32}[config.model.downsample]  # of E4
    pooled = one_token or 1 in config.model.pool_scales
    parts = config.data.accumulate  # over all processes
    if training and config.data.batch_size // parts < 2 and pooled:
        raise UserError(
            f"data.batch_size {config.data.batch_size} in {parts} parts leaves one picture a part; expected two or more, as "
            "what UPerNet pools to 1x1 is batch-normalised. Lower data.accumulate or raise the batch."
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
