"""ConvViT by timm's names: `timm.create_model("convvit_base", ...)`, once `convmae.backbones` is imported.

timm has no weights to download; it reads local ones: `pretrained=True, pretrained_cfg_overlay=dict(file="encoder.pth")` takes
any layout, and `checkpoint_path="model.pth"` a file of the whole model in timm's layout, both at any image size.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from convmae.backbones.convvit import SIZES, ConvViT
from convmae.backbones.weights.checkpoint import fit_state

default_cfgs = generate_default_cfgs(
    {
        f"convvit_{size}": {
            "input_size": (3, 224, 224),
            "pool_size": (14, 14),
            "first_conv": "patch_embed1.proj",
            "classifier": "head",
            "paper_name": "MCMAE: Masked Convolution Meets Masked Autoencoders",
            "paper_ids": "arXiv:2205.03892",
        }
        for size in SIZES
    }
)


def _convvit(size: str, drop_rate: float = 0.0, **options: Any) -> ConvViT:
    """A ConvViT from timm's options, of which it has fewer."""
    if drop_rate:
        raise ValueError(f"ConvViT has no dropout; asked for {drop_rate=}")
    return ConvViT(size, **options)


def _create(
    size: str, pretrained: bool, pretrained_cfg_overlay: dict[str, Any] | None = None, **options: Any
) -> nn.Module:
    model: nn.Module = build_model_with_cfg(
        partial(_convvit, size),
        f"convvit_{size}",
        pretrained,
        # A file goes to ConvViT.load_pretrained: timm's own reader knows fewer layouts, and in its older versions runs pickles.
        pretrained_cfg_overlay={**(pretrained_cfg_overlay or {}), "custom_load": True},
        feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
        **options,
    )
    if isinstance(model, ConvViT):  # timm loads `checkpoint_path` by load_state_dict, without resampling positions
        model.register_load_state_dict_pre_hook(fit_state)
    return model


@register_model
def convvit_tiny(pretrained: bool = False, **options: Any) -> nn.Module:
    """ConvViT-Tiny, ours."""
    return _create("tiny", pretrained, **options)


@register_model
def convvit_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """ConvViT-Small."""
    return _create("small", pretrained, **options)


@register_model
def convvit_base(pretrained: bool = False, **options: Any) -> nn.Module:
    """ConvViT-Base."""
    return _create("base", pretrained, **options)


@register_model
def convvit_large(pretrained: bool = False, **options: Any) -> nn.Module:
    """ConvViT-Large."""
    return _create("large", pretrained, **options)


@register_model
def convvit_huge(pretrained: bool = False, **options: Any) -> nn.Module:
    """ConvViT-Huge."""
    return _create("huge", pretrained, **options)
