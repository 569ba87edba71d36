"""mmcv's operators by torchvision and PyTorch where none are compiled, for mmdet: to be given before it is imported.

Mask R-CNN and its kin call RoI align and suppression; on a GPU transformers call deformable attention, and focal losses theirs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms, sigmoid_focal_loss

from convmae.engine.errors import UserError

NAME = "mmcv._ext"
# What mmdet imports without its models: there functions that raise stand in an operator's place by then.
_EARLY = {
    "mmdet.structures.mask.structures": "roi_align",
    "mmdet.utils.large_image": "batched_nms",
    "mmdet.evaluation.metrics.dump_odvg_results": "batched_nms",
}


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: Any
) -> None:
    """Fills ``output`` [N, C, height, width] with what is cut from ``input`` [B, C, H, W] at ``rois`` [N, 5], in fp32."""
    scale, height, width, samples, aligned = _pooling(options)
    pooled = torch.ops.torchvision.roi_align(input.float(), rois.float(), scale, height, width, samples, aligned)
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **options: Any
) -> None:
    """Fills ``grad_input`` [B, C, H, W] with the gradient that ``grad_output`` [N, C, height, width] leads to."""
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output.float(), rois.float(), *_pooling(options)[:3], *grad_input.shape, *_pooling(options)[3:]
        )
    )


def _pooling(options: dict[str, Any]) -> tuple[float, int, int, int, bool]:
    if options["pool_mode"] != 1:
        raise UserError(
            "RoI align takes the largest sample in mmcv's compiled operators alone; expected pool_mode='avg'."
        )
    names = ("spatial_scale", "aligned_height", "aligned_width", "sampling_ratio", "aligned")
    scale, height, width, samples, aligned = (options[name] for name in names)
    return scale, height, width, samples, aligned


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Returns the indices, best first, of the boxes [N, 4] that overlap no better one more than the threshold.

    offset: pixels that each side is longer than right minus left: 1 where the last pixel is counted.
    """
    if not boxes.is_floating_point() or boxes.element_size() < 4:
        boxes = boxes.float()
    return nms(boxes + boxes.new_tensor([0, 0, offset, offset]), scores.to(boxes.dtype), iou_threshold)


def _by_gradient(function: Callable[..., Tensor], gradients: tuple[Tensor, ...], grad: Tensor, *values: Tensor) -> None:
    """Fills gradients with those of a function's first arguments, computed anew."""
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_() for value in values]
        output = function(*leaves)
        found = torch.autograd.grad(output, leaves, grad.to(output.dtype))
    for gradient, value in zip(gradients, found, strict=True):
        gradient.copy_(value)


def ms_deform_attn_forward(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, im2col_step: int
) -> Tensor:
    """Returns multi-scale deformable attention (arXiv 2010.04159, equation 3) by mmcv's form in PyTorch, [B, queries, C].

    value: [B, keys, heads, C / heads]; shapes: height and width of each level; starts: the first key of each; locations:
    [B, queries, heads, levels, points, 2], from 0 to 1; weights: [B, queries, heads, levels, points].
    """
    return _attention(shapes)(value, locations, weights).to(value.dtype)  # autocast sums in fp32


def ms_deform_attn_backward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_locations: Tensor,
    grad_weights: Tensor,
    im2col_step: int,
) -> None:
    """Fills the three gradients of ``ms_deform_attn_forward``."""
    gradients = grad_value, grad_locations, grad_weights
    _by_gradient(_attention(shapes), gradients, grad_output, value, locations, weights)


def _attention(shapes: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    sizes = shapes.tolist()  # once; the form in PyTorch would wait for a GPU at each use
    return lambda value, locations, weights: multi_scale_deformable_attn_pytorch(value, sizes, locations, weights)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fills ``output`` [N, C] with the focal loss (arXiv 1708.02002) of logits [N, C]; targets [N], C is background."""
    output.copy_(_focal(target, weight, gamma, alpha)(input))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills ``grad_input`` [N, C] with the derivative of each loss by its logit."""
    _by_gradient(_focal(target, weight, gamma, alpha), (grad_input,), torch.ones_like(input), input)


def _focal(target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Callable[[Tensor], Tensor]:
    if weight.numel():
        raise UserError("The focal loss weighs classes in mmcv's compiled operators alone; expected no class weights.")

    def loss(logits: Tensor) -> Tensor:
        wanted = F.one_hot(target, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
        return sigmoid_focal_loss(logits, wanted, alpha, gamma)

    return loss


OPERATORS: dict[str, Callable[..., Any]] = {
    "roi_align_forward": roi_align_forward,
    "roi_align_backward": roi_align_backward,
    "nms": suppress,
    "ms_deform_attn_forward": ms_deform_attn_forward,
    "ms_deform_attn_backward": ms_deform_attn_backward,
    "sigmoid_focal_loss_forward": sigmoid_focal_loss_forward,
    "sigmoid_focal_loss_backward": sigmoid_focal_loss_backward,
}


def _absent(name: str, *_: Any, **__: Any) -> NoReturn:
    raise UserError(
        f"mmcv has no operator {name} here: none are compiled, and this one is not among those that torchvision or PyTorch "
        f"stand in for ({', '.join(OPERATORS)}); expected a model without it, or an mmcv that was built with its operators."
    )


class Operators(ModuleType):
    """A module in the place of ``mmcv._ext``: `OPERATORS`, and for each other name what raises UserError when it is called."""

    def __init__(self) -> None:
        super().__init__(NAME, __doc__)
        self.__spec__ = ModuleSpec(NAME, None)
        vars(self).update(OPERATORS)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return partial(_absent, name)


def provide() -> ModuleType:
    """Returns mmcv's compiled operators, or puts `Operators` in their place if there are none.

    Raises UserError for operators that don't load, since they were compiled for another PyTorch, and where it is too late.
    """
    import mmcv

    if NAME in sys.modules or find_spec(NAME):
        try:
            return importlib.import_module(NAME)
        except (ImportError, OSError) as error:
            raise UserError(
                f"mmcv's compiled operators don't load beside PyTorch {torch.__version__} ({error}): they were compiled for "
                "another one. Build mmcv anew, or take it without: pip install --force-reinstall --no-deps onedl-mmcv."
            ) from error
    if "mmdet.models" in sys.modules:
        raise UserError(
            "mmdet's models were imported before mmcv had operators to give them; expected convmae.detection.mmdet, or "
            "convmae.segmentation.backbone, to be imported before mmdet and mmseg, which imports it."
        )
    module = sys.modules[NAME] = Operators()
    mmcv._ext = module
    for early, name in _EARLY.items():
        if early in sys.modules:
            setattr(sys.modules[early], name, getattr(importlib.import_module("mmcv.ops"), name))
    return module
