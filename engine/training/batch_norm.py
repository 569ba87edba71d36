"""The statistics of batch norms, and one over the pictures of all processes on CPUs, where PyTorch's own refuses to train."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_on_cpu(model: nn.Module) -> nn.Module:
    """Returns the model with a form of its ``SyncBatchNorm``s that trains on CPUs, of the same parameters and names."""
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = CpuSyncBatchNorm  # type: ignore[assignment]  # the optimiser has its parameters already
    return model


def running_statistics(model: nn.Module, of_all: bool = True) -> list[Tensor]:
    """Returns the means and variances that batch norms keep; without ``of_all`` those of one process's pictures alone."""
    shared = () if of_all else (nn.SyncBatchNorm, CpuSyncBatchNorm)
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm) and not isinstance(one, shared)]
    return [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]


class CpuSyncBatchNorm(_BatchNorm):
    """What ``SyncBatchNorm`` does, by sums over processes that are differentiable; DDP refuses its subclasses on CPUs."""

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"expected [B, C, ...], got {list(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """Returns x [B, C, ...] normalised by the statistics of all processes' x, of which some may hold no pictures."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        shape = [1, -1, *[1] * (x.ndim - 2)]
        # In two passes, as the mean square less the squared mean would lose the digits of maps far from zero.
        mean, count = _mean_over_all(values)
        centred = values - mean.to(values.dtype).view(shape)
        variance, _ = _mean_over_all(centred.square())
        if self.track_running_stats and count:
            self._follow(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scale = (variance + self.eps).rsqrt().to(values.dtype)
        if self.affine:
            return (centred * (scale * self.weight).view(shape) + self.bias.view(shape)).to(x.dtype)
        return (centred * scale.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics [C] towards a batch's."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(value.to(running.dtype), share)


def _mean_over_all(values: Tensor) -> tuple[Tensor, int]:
    """Returns the mean [C] of values [B, C, ...] over all processes, 0 where there are none, and of how many it is."""
    dims = [0, *range(2, values.ndim)]
    own = values.new_full((1,), values.numel() // values.shape[1], dtype=torch.float64)
    total = _SumOverAll.apply(torch.cat([values.sum(dims, dtype=torch.float64), own]))
    count = int(total[-1])
    return total[:-1] / max(count, 1), count


class _SumOverAll(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of theirs, for each of them uses it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)


def _summed(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
