"""A run from pretrained weights takes their encoder's kind and size where nobody set others, and says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convmae.engine.commands.next_command import CHOICES
from convmae.engine.config import load_config
from convmae.engine.errors import UserError


def by_weights(
    config: Any, recipe: str, default: str, given: Sequence[str], load: Callable[[str, list[str]], Any]
) -> tuple[Any, str, list[str]]:
    """Returns a run's tree for the encoder in its ``model.init``, the recipe that it is of, and what was fitted to the file.

    A ``recipe`` that is the tool's ``default``, which nobody named, gives way to the tool's recipe for that size; of one that
    was named only the kind and the size do. ``given``: the options that were set; ``load(recipe, options)`` returns a tree with
    them and more. Raises UserError where the file's kind or size is another than the options that were set.
    """
    from convmae.backbones import CheckpointError
    from convmae.backbones.families import named_size

    init = config.model.init
    try:
        family, size = named_size(init)
    except CheckpointError:  # whose reason the task gives, which may take what this can't read
        return config, recipe, []
    wanted = {"size": size, "arch": family} if hasattr(config.model, "arch") else {"size": size}
    other = {name: value for name, value in wanted.items() if value != getattr(config.model, name)}
    fixed = "vit" if getattr(config.model, "method", "") == "mae" else "convvit"
    if not size or not other or ("arch" not in wanted and family != fixed):
        return config, recipe, []
    kind = f"a plain ViT of size {size}" if family == "vit" else f"a ConvViT of size {size}"
    for name in other:
        if any(one.startswith(f"model.{name}=") for one in given):
            raise UserError(
                f"model.{name} is {getattr(config.model, name)}, and {init} holds {kind}; leave model.{name} out, or give "
                "other weights."
            )
    notes = []
    if recipe == default and (fitting := _recipe_of_size(default, size, type(config))):
        recipe = fitting
        notes.append(f"{init} holds {kind}: takes the recipe {recipe}")
        config = load(recipe, [])
    if left := [f"model.{name}={value}" for name, value in wanted.items() if value != getattr(config.model, name)]:
        notes.append(f"{init} holds {kind}: {' and '.join(left)}, for other values in the recipe {recipe}")
        config = load(recipe, left)
    return config, recipe, notes


def _recipe_of_size(default: str, size: str, schema: type) -> str | None:
    """Returns the largest recipe beside a tool's default whose encoder has that size."""
    for choices in CHOICES.values():
        names = [one.recipe for one in choices]
        if default in names:
            fitting = [name for name in names if load_config(schema, name).model.size == size]
            return fitting[-1] if fitting else None
    return None
