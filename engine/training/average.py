"""A moving average of a model's weights, which is evaluated and exported in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from convmae.engine.machine.sharding import local, split_like


class WeightAverage:
    """An exponential moving average of a model's parameters; what batch norms keep is a running mean already.

    At step n the decay is min(decay, n / (n + 9)), so that a short run's average has left the start behind.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.steps = 0
        self.values = {name: value.clone() for name, value in self._live().items()}

    def _live(self) -> dict[str, Tensor]:
        return {
            name: parameter.detach() for name, parameter in self.model.named_parameters() if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights after one more step in."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        torch._foreach_lerp_(
            [local(value) for value in self.values.values()], [local(one) for one in self._live().values()], 1 - decay
        )

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the model's weights and their average."""
        for name, value in self._live().items():
            kept = value.clone()
            value.copy_(self.values[name])
            self.values[name].copy_(kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Has the model compute with the average."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, object]:
        """Returns what continuing needs."""
        return {"steps": self.steps, "values": dict(self.values)}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from what ``state_dict`` gave. Raises KeyError for another model's."""
        self.steps = state["steps"]
        for name, value in self.values.items():
            value.copy_(split_like(state["values"][name], value))
