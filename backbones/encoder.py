"""What ConvViT and ViT share around their stages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convmae.backbones.position import Grid
from convmae.backbones.weights.shapes import FromCheckpoint

Trained = TypeVar("Trained", bound="Encoder")


def checked_channels(in_chans: int) -> int:
    """Returns a number of channels. Raises ValueError for none."""
    if in_chans < 1:
        raise ValueError(f"in_chans is {in_chans}; expected at least 1 channel")
    return in_chans


FREEZABLE = ("none", "stem", "encoder")


class Encoder(FromCheckpoint):
    """An encoder whose blocks may recompute their activations and whose linear layers start as in pretraining."""

    checkpoint_activations: bool
    grid_size: Grid  # that the positions are kept at
    in_chans: int  # channels of the images
    added: tuple[str, ...] = ()  # parts that tasks put on it, which no pretraining fills and nothing freezes
    frozen: frozenset[str] = frozenset()  # parts that don't learn, by the first word of their names

    @staticmethod
    def init_linear(module: nn.Module) -> None:
        """Xavier-uniform weights and zero biases for linear layers, as in pretraining."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def run_block(self, block: nn.Module, x: Tensor, *args: Any) -> Tensor:
        """Runs one block; under `checkpoint_activations` its inner activations are recomputed in the backward pass."""
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, x, *args, use_reentrant=False)
        return block(x, *args)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns `checkpoint_activations` on or off, by timm's name."""
        self.checkpoint_activations = enable

    def freeze(self, what: str) -> None:
        """Has its "stem" (layer 0 of `group_matcher`) or all of the "encoder" but what is `added` learn nothing; or "none".

        Frozen parts compute as in evaluation whatever the mode of the rest, and no gradient is computed for them.

        Raises:
            ValueError: another word.
        """
        if what not in FREEZABLE:
            raise ValueError(f"freeze is {what!r}; expected 'none', 'stem' or 'encoder'")
        stem = re.compile(self.group_matcher()["stem"])
        for name, parameter in self.named_parameters():
            part = name.partition(".")[0]
            if (what == "stem" and stem.match(name)) or (what == "encoder" and part not in self.added):
                parameter.requires_grad_(False)
                self.frozen |= {part}
        self.train(self.training)

    def train(self: Trained, mode: bool = True) -> Trained:
        """Sets the mode of all but the frozen parts, whose norms, dropout and drop path stay as in evaluation."""
        super().train(mode)
        for name, part in self.named_children():
            if name in self.frozen:
                part.eval()
        return self

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns patterns of the parameters' names for layer-wise decay, in timm's form; those of "stem" are layer 0."""
        raise NotImplementedError

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns the last stage's tokens, [B, L, C], L in row-major order, of images [B, in_chans, H, W]."""
        raise NotImplementedError


class Classifier(Encoder):
    """Mean over an encoder's tokens, `fc_norm`, `head`. With `num_classes=0` it returns the normed mean."""

    added = ("fc_norm", "head")
    fc_norm: nn.Module
    head: nn.Module

    def add_head(self, width: int, num_classes: int, global_pool: str = "avg") -> None:
        """Makes the head for tokens of `width` channels; `global_pool` is "avg", or "" to keep the tokens apart."""
        self.num_features = self.head_hidden_size = width
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """Returns `head`."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Makes a new `head`, from a truncated normal of 0.02 (timm's); `global_pool` stays as it was for None.

        Raises:
            ValueError: another pooling than "avg" and "".
        """
        if global_pool not in (None, "avg", ""):
            raise ValueError(f"global_pool is {global_pool!r}; expected 'avg', or '' for none")
        if global_pool is not None:
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            like = next(self.parameters())
            self.head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    @classmethod
    def options_from_state_dict(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        classes = {"num_classes": state["head.weight"].shape[0]} if "head.weight" in state else {}
        return super().options_from_state_dict(state) | classes

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits [B, num_classes] of tokens [B, L, C], or what goes into `head`, [B, C]."""
        pooled = self.fc_norm(tokens.mean(1) if self.global_pool else tokens)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [B, num_classes] of images [B, in_chans, H, W]."""
        return self.forward_head(self.forward_features(images))
