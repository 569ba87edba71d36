"""AdamW's parameter groups, from what the model says of its layers, and the optimiser step in any precision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from timm.models import group_parameters
from torch import nn
from torch.nn.utils import get_total_norm

from convmae.engine.machine.precision import autocast
from convmae.engine.machine.sharding import local, whole
from convmae.engine.options import DataOptions, OptimOptions


def param_groups(model: nn.Module, options: OptimOptions) -> list[dict[str, Any]]:
    """Returns AdamW groups, one for each layer with and one without weight decay.

    Vectors (norms, biases) and what a module names in ``no_weight_decay()`` are not decayed; with ``decay_biases`` those biases
    are that stand beside a decayed weight. Layers come from the
    ``group_matcher()`` of the module that has one, in timm's form; what lies outside it belongs to the last layer. Each group
    carries ``lr_scale = layer_decay ** (layers above it)``.
    """
    undecayed = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }
    layers = _layers(model) if options.layer_decay != 1.0 else {}
    top = max(layers.values(), default=0)
    parameters = dict(model.named_parameters())
    decayed = {name for name, parameter in parameters.items() if parameter.ndim > 1 and name not in undecayed}
    if options.decay_biases:
        decayed |= {name.removesuffix("weight") + "bias" for name in decayed if name.endswith(".weight")}
    groups: dict[tuple[int, float], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            continue
        layer = layers.get(name, top)
        decay = options.weight_decay if name in decayed else 0.0
        group = groups.setdefault(
            (layer, decay),
            {"params": [], "names": [], "weight_decay": decay, "lr_scale": options.layer_decay ** (top - layer)},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ConvMAEOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Groups parameters as this project's own runs do, which OpenMMLab's constructors of layer-wise decay can't.

    ``paramwise_cfg`` takes ``layer_decay``, the factor of the learning rate from each layer to the one below it, and
    ``decay_biases``. Norms, positions, bias tables and, without the latter, biases have no weight decay.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        # Without options mmengine makes no groups.
        super().__init__(optim_wrapper_cfg, paramwise_cfg or {"layer_decay": 1.0})

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        for group in param_groups(module, OptimOptions(weight_decay=1.0, **self.paramwise_cfg)):
            decayed = group.pop("weight_decay")
            decay = {} if decayed and self.base_wd is None else {"weight_decay": decayed * (self.base_wd or 0.0)}
            params.append({**group, **decay, "lr": self.base_lr * group["lr_scale"]})


def build_optim_wrapper(
    groups: list[dict[str, Any]],
    options: OptimOptions,
    data: DataOptions,
    device: torch.device,
    dtype: torch.dtype | None,
) -> OptimWrapper:
    """Returns AdamW behind mmengine's wrapper: accumulation, clipping, autocast, and loss scaling for fp16."""
    lr = scaled_lr(options, data)
    for group in groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(options.betas[0], options.betas[1]), fused=True)
    return AutocastOptimWrapper(
        device=device,
        dtype=dtype,
        optimizer=optimizer,
        accumulative_counts=data.accumulate,
        clip_grad={"max_norm": options.clip_grad} if options.clip_grad > 0 else None,
    )


def scaled_lr(options: OptimOptions, data: DataOptions) -> float:
    """Returns the learning rate for the batch in use, by the linear rule if the recipe names the batch it was meant for."""
    return options.lr * data.batch_size / options.lr_batch if options.lr_batch else options.lr


class AutocastOptimWrapper(OptimWrapper):
    """An optimiser step whose forward runs under autocast, on a CPU too, with scaled losses for fp16.

    A step whose gradient is not finite changes no weight; ``skipped`` says of the last step whether that was so, as a tensor []
    that nobody has waited for. Across processes the gradients, and so the flags, are the same. (mmengine's own wrappers know
    neither, and refuse on a CPU.)
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.device, self.dtype = device, dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self.skipped = torch.zeros((), device=device)

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        super().backward(self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        self.scaler.unscale_(self.optimizer)
        groups = self.optimizer.param_groups
        gradients = [found.grad for group in groups for found in group["params"] if found.grad is not None]
        norm = whole(get_total_norm(gradients))
        if self.clip_grad_kwargs:  # mmengine's own would wait for the GPU to log the norm
            torch._foreach_mul_(
                [local(one) for one in gradients], (self.clip_grad_kwargs["max_norm"] / (norm + 1e-6)).clamp(max=1.0)
            )
        self.skipped = (~norm.isfinite()).float()
        self.optimizer.found_inf = self.skipped  # AdamW's fused kernel reads it, without a wait
        self.optimizer.step(**kwargs)
        self.scaler.update()  # half the scale after a skipped step, twice after 2,000 others

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "loss_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a state; what the options say of each group (decay, betas, part of the rate) is as it is now."""
        state = dict(state_dict)
        if scale := state.pop("loss_scaler", None):  # empty of a run in another precision
            self.scaler.load_state_dict(scale)
        chosen = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        super().load_state_dict(state)
        for group, own in zip(self.optimizer.param_groups, chosen, strict=True):
            group.update(own)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), autocast(self.device, self.dtype):
            yield


def _layers(model: nn.Module) -> dict[str, int]:
    """Returns the layer of each parameter; what no pattern of the encoder matches (final norm, heads) is in the last."""
    owners = [(prefix, module) for prefix, module in model.named_modules() if hasattr(module, "group_matcher")]
    if not owners:
        raise ValueError(f"{type(model).__name__} holds no module with group_matcher(), which layer_decay needs")
    prefix, encoder = owners[0]
    dotted = re.escape(f"{prefix}." if prefix else "")

    def nest(pattern: Any) -> Any:
        if isinstance(pattern, str):
            return f"^{dotted}{pattern.removeprefix('^')}"
        return [(nest(part), order) for part, order in pattern]

    matcher = {name: nest(pattern) for name, pattern in encoder.group_matcher(coarse=False).items()}
    return group_parameters(model, matcher, reverse=True)
