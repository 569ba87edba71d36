"""What the processes of a run send one another in a training step, and what a link takes for it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from convmae.backbones import ConvViTEncoder


def gradient_bytes(model: nn.Module, freeze: str = "none") -> int:
    """Returns the bytes of a model's gradients, fp32 in every precision of a run, where ``freeze`` of its encoder has none."""
    for part in model.modules():
        if isinstance(part, ConvViTEncoder):
            part.freeze(freeze)
    return sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)


def ring_seconds(size: int, processes: int, gbit: float) -> float:
    """Returns what a ring needs to average ``size`` bytes over links of ``gbit`` Gbit/s in each direction.

    Each process sends 2 (n - 1) / n of them; latency, and what is computed meanwhile, are not in it.
    """
    return 2 * (processes - 1) / processes * size * 8 / (gbit * 1e9)


def communication_table(sizes: Sequence[tuple[str, int]], processes: Sequence[int], links: Sequence[float]) -> str:
    """Returns a table of models, given by name and bytes, with the milliseconds of a step on links of those rates."""
    head = ["model", "gradients", "processes", *(f"{rate:g} Gbit/s" for rate in links)]
    rows = [
        [name, f"{size / 1e6:.0f} MB", str(count), *(_milliseconds(ring_seconds(size, count, rate)) for rate in links)]
        for name, size in sizes
        for count in processes
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
