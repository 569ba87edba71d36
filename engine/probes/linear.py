"""Linear probing: classifiers on frozen features, trained by LARS as in MAE (arXiv 2111.06377, appendix A.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.optim import Lars
from torch import Tensor, nn

from convmae.engine.options import LinearProbeOptions
from convmae.engine.probes.features import Features
from convmae.engine.seeding import STEP, seed_all


@dataclass
class Probe:
    """A trained classifier: its learning rate at a batch of 256, its last training loss, its probabilities [N, classes]."""

    lr: float
    loss: float
    probabilities: Tensor


class ProbeHead(nn.Module):
    """BatchNorm without affine, then a linear layer, on pooled features [B, C]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False, eps=1e-6)
        self.linear = nn.Linear(channels, classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


def train_probes(
    views: Sequence[Features],
    values: Tensor,
    classes: int,
    options: LinearProbeOptions,
    seed: int,
    device: torch.device,
) -> list[Probe]:
    """Trains one classifier for each learning rate on the same batches and returns what each makes of ``values`` [N, C].

    views: features of the same pictures, of which the epochs take one by turns.
    """
    seed_all(seed, STEP)
    count, channels = views[0].values.shape
    first = ProbeHead(channels, classes)
    heads = [ProbeHead(channels, classes).to(device) for _ in options.lrs]
    for head in heads:
        head.load_state_dict(first.state_dict())
    batch = min(options.batch_size, count)
    optimizers = [build_lars(head, lr) for head, lr in zip(heads, options.lrs, strict=True)]
    steps = max(1, count // batch)
    labels = views[0].labels.to(device)
    losses = [torch.tensor(math.nan)] * len(heads)
    for epoch in range(options.epochs):
        seed_all(seed, STEP, epoch)
        order = torch.randperm(count).to(device)
        features = views[epoch % len(views)].values.to(device)
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            factor = lr_factor(epoch + step / steps, options) * batch / 256
            for number, (head, optimizer, lr) in enumerate(zip(heads, optimizers, options.lrs, strict=True)):
                for group in optimizer.param_groups:
                    group["lr"] = lr * factor
                loss = F.cross_entropy(head.train()(features[chosen]), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses[number] = loss.detach()
    with torch.inference_mode():
        found = [head.eval()(values.to(device)).softmax(1).cpu() for head in heads]
    return [Probe(lr, float(loss), scores) for lr, loss, scores in zip(options.lrs, losses, found, strict=True)]


def build_lars(head: ProbeHead, lr: float) -> Lars:
    """Returns LARS with momentum, without weight decay; as in MAE, a matrix's step is scaled to its norm, a bias's is not."""
    # Without weight decay timm scales no step unless told to.
    scaled = {"params": [head.linear.weight], "always_adapt": True}
    return Lars([scaled, {"params": [head.linear.bias]}], lr=lr, momentum=0.9, trust_coeff=1e-3)


def lr_factor(epoch: float, options: LinearProbeOptions) -> float:
    """Returns the part of the learning rate at a fraction of epochs: linear warm-up, then half a cosine to 0."""
    if epoch < options.warmup:
        return epoch / options.warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - options.warmup) / max(1, options.epochs - options.warmup)))
