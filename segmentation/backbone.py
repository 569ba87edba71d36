"""ConvViTSeg and its layer-wise decay for mmseg configs, by ``custom_imports`` of this module; see docs/mmsegmentation.md."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from convmae import backbones
from convmae.backbones import load_checkpoint
from convmae.engine.options import OptimOptions
from convmae.engine.training.optim import param_groups
from convmae.engine.whole_weights import check_encoder
from convmae.segmentation.mmseg_parts import MODELS, OPTIM_WRAPPER_CONSTRUCTORS


@MODELS.register_module()
class ConvViTSeg(backbones.ConvViTSeg):
    """The encoder for segmentation as an mmseg backbone.

    It takes the arguments of `convmae.backbones.ConvViTSeg` and `init`: pretrained weights of any known layout, fitted to its
    grid. What became of each of their names is logged. Raises UserError for a file that leaves some of the encoder unfilled.
    """

    def __init__(self, *args: Any, init: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        if init:
            report = load_checkpoint(self, init)
            print_log(str(report), logger="current", level=logging.INFO)
            check_encoder(report, init)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ConvMAEOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Groups parameters as this project's own runs do, which mmseg's constructors of layer-wise decay can't for this encoder.

    ``paramwise_cfg`` takes ``layer_decay``, the factor of the learning rate from each layer to the one below it. Norms,
    biases, positions and bias tables have no weight decay.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        # Without options mmengine makes no groups.
        super().__init__(optim_wrapper_cfg, paramwise_cfg or {"layer_decay": 1.0})

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        for group in param_groups(module, OptimOptions(weight_decay=1.0, **self.paramwise_cfg)):
            decayed = group.pop("weight_decay")
            decay = {} if decayed and self.base_wd is None else {"weight_decay": decayed * (self.base_wd or 0.0)}
            params.append({**group, **decay, "lr": self.base_lr * group["lr_scale"]})
