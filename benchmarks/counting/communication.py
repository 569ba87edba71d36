"""What the processes of a run send one another in a training step, what a link takes for it, and what each of them keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from convmae.backbones import ConvViTEncoder
from convmae.engine.machine.memory import training_bytes
from convmae.engine.machine.sharding import blocks
from convmae.pretraining.teachers import TimmTeacher


class Held(NamedTuple):
    """Bytes of a model in training: its gradients, all that is kept whatever the batch, the weights of the largest block.

    ``whole``: of what is kept, that which isn't split, the weights of teachers that come from files.
    """

    name: str
    gradients: int
    kept: int
    block: int
    whole: int = 0

    def split(self, processes: int) -> int:
        """Returns what a process keeps of a split model: its part, and a block's weights and gradients as it computes."""
        return (self.kept - self.whole) // processes + self.whole + 2 * self.block


def held_by(name: str, model: nn.Module, freeze: str = "none") -> Held:
    """Returns the bytes of a model whose encoder is frozen as ``freeze`` says; all are fp32 in every precision of a run."""
    for part in model.modules():
        if isinstance(part, ConvViTEncoder):
            part.freeze(freeze)
    gradients = sum(one.nbytes for one in model.parameters() if one.requires_grad)
    largest = max((sum(one.nbytes for one in block.parameters()) for block in blocks(model)), default=0)
    frozen = sum(
        training_bytes(part.network, averaged=False) for part in model.modules() if isinstance(part, TimmTeacher)
    )
    return Held(name, gradients, training_bytes(model, averaged=False) + frozen, largest, frozen)


def ring_seconds(size: int, processes: int, gbit: float) -> float:
    """Returns what a ring needs to average ``size`` bytes over links of ``gbit`` Gbit/s in each direction.

    Each process sends 2 (n - 1) / n of them; latency, and what is computed meanwhile, are not in it.
    """
    return 2 * (processes - 1) / processes * size * 8 / (gbit * 1e9)


def communication_table(models: Sequence[Held], processes: Sequence[int], links: Sequence[float]) -> str:
    """Returns a table of models: what a process keeps, split or not, and the milliseconds of a step on links of those rates."""
    head = ["model", "gradients", "processes", "kept by each", "with --shard", *(f"{rate:g} Gbit/s" for rate in links)]
    rows = [
        [
            one.name,
            f"{one.gradients / 1e6:.0f} MB",
            str(count),
            f"{one.kept / 1e9:.2f} GB",
            f"{one.split(count) / 1e9:.2f} GB",
            *(_milliseconds(ring_seconds(one.gradients, count, rate)) for rate in links),
        ]
        for one in models
        for count in processes
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
