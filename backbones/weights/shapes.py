"""What the shapes of a weight file tell of the model that it belongs to; and building that model from the file alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from convmae.backbones.weights.checkpoint import load_checkpoint, square
from convmae.backbones.weights.load_report import LoadReport
from convmae.backbones.weights.weight_files import CheckpointError, read_weights

STRIDE = 16  # pixels of an image that one position stands for
_DEEPEST = 256  # blocks in a row, more than any encoder has
_LARGEST = 16  # values of a model for each in its file: positions of larger pictures and a head may come to those there
_FREE = 1 << 22  # values that a model may have whatever its file holds

Built = TypeVar("Built", bound="FromCheckpoint")


class FromCheckpoint(nn.Module):
    """Adds `from_checkpoint` to an encoder whose constructor's first argument is `size`."""

    first_weight = "patch_embed1.proj.weight"  # what tells an encoder of this family, and its prefix, in a file
    load_report: LoadReport

    @classmethod
    def from_checkpoint(cls: type[Built], path: str | Path, strict: bool = False, **options: Any) -> Built:
        """Builds the model that a weight file fits, and fills it; what became of each key is in `load_report`.

        Widths, depths and MLP ratios are read from the shapes, and so are channels, and image size, window and classes where
        the file has what tells them. Heads are read from tables of relative positions, else they follow the width.

        Args:
            path: a file of any layout that `load_checkpoint` knows.
            strict: missing and unexpected names are an error.
            options: of the constructor; they win over what the file says.

        Raises:
            CheckpointError: a file that can't be read, or that holds no encoder of this family, or shapes of none.
        """
        state, source = read_weights(path)
        state = encoder_part(state, source, cls.first_weight)
        try:
            found = {"size": cls.dims_from_state_dict(state), "in_chans": state[cls.first_weight].shape[1]}
            found = found | cls.options_from_state_dict(state) | options
            with torch.device("meta"):
                planned = cls(**found)
        except CheckpointError:
            raise
        except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:  # the last of sizes that overflow
            raise CheckpointError(f"{source}: its shapes make no {cls.__name__} ({error})") from None
        _check_size(planned, state, source)
        model = cls(**found)
        model.load_report = load_checkpoint(model, path, strict)
        return model

    @classmethod
    def options_from_state_dict(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's options that the shapes of weights tell (named as the model names them), but for the size."""
        return image_size(state)

    @classmethod
    def dims_from_state_dict(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """The encoder's dims, as the constructor takes them for `size`."""
        return dims_from_state_dict(state)


def encoder_part(
    state: Mapping[str, Any], source: str = "the state dict", first: str = FromCheckpoint.first_weight
) -> dict[str, Any]:
    """The weights that stand beside an encoder's, of which `first` is one, their common prefix taken off.

    What has no side that could tell a size is left out: texts, numbers, tensors of one value.

    Raises:
        CheckpointError: there is no encoder of this family.
    """
    state = {name: value for name, value in state.items() if _has_sides(value)}
    prefixes = [name.removesuffix(first) for name in state if name == first or name.endswith(f".{first}")]
    if not prefixes:
        found = ", ".join(list(state)[:4])
        raise CheckpointError(
            f"{source} holds no such encoder: expected a tensor whose name ends in {first}; found {found}, ..."
        )
    prefix = min(prefixes, key=len)
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _has_sides(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0 and all(value.shape)


def _check_size(planned: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Refuses shapes that ask for far more than the file holds, as a tensor can that repeats a few values."""
    wanted = sum(value.numel() for value in planned.state_dict().values() if isinstance(value, Tensor))
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() // value.element_size()
        for value in state.values()
        if isinstance(value, Tensor) and not value.is_meta
    }
    held = sum(storages.values()) + sum(value.size for value in state.values() if isinstance(value, np.ndarray))
    if wanted > _LARGEST * (held + _FREE):
        raise CheckpointError(f"{source} holds {held:,} values, and its shapes are of a model of {wanted:,}")


def dims_from_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """The dims of an encoder, as `Dims.of` takes them, from the shapes of its weights.

    Raises:
        CheckpointError: a weight that tells one of them is missing.
    """
    state = encoder_part(state)
    try:
        widths = tuple(state[f"patch_embed{stage}.proj.weight"].shape[0] for stage in (1, 2, 3))
        hidden = [state[f"blocks{stage}.0.mlp.fc1.weight"].shape[0] for stage in (1, 2, 3)]
    except KeyError as error:
        raise CheckpointError(f"the weights hold no {error}; expected an encoder's three stages") from None
    dims: dict[str, Any] = {
        "embed_dims": widths,
        "depths": tuple(block_count(state, f"blocks{stage}") for stage in (1, 2, 3)),
        "mlp_ratios": tuple(size / width for size, width in zip(hidden, widths, strict=True)),
    }
    if tables := bias_tables(state):
        dims["num_heads"] = tables[0].shape[1]
    elif "blocks3.0.attn.rel_pos_h" in state:
        dims["num_heads"] = widths[2] // state["blocks3.0.attn.rel_pos_h"].shape[1]
    return dims


def block_count(state: Mapping[str, Any], blocks: str) -> int:
    """The number of modules in a list of that name. Raises CheckpointError for more than an encoder has."""
    count = len({match[1] for name in state if (match := re.match(rf"{blocks}\.(\d+)\.", name))})
    if count > _DEEPEST:
        raise CheckpointError(f"the weights name {count} {blocks}; expected an encoder's, {_DEEPEST} at most")
    return count


def bias_tables(state: Mapping[str, Any], module: str = "") -> list[Any]:
    """The relative position bias tables, [(2 h - 1) * (2 w - 1), heads], of all modules or of one."""
    return [v for name, v in state.items() if name.startswith(module) and name.endswith("relative_position_bias_table")]


def rel_pos_grids(state: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Rows and columns that each block's decomposed relative positions are for; none where there are no such tables."""
    blocks = (f"blocks3.{index}.attn.rel_pos_" for index in range(block_count(state, "blocks3")))
    return [
        ((state[name + "h"].shape[0] + 1) // 2, (state[name + "w"].shape[0] + 1) // 2)
        for name in blocks
        if name + "h" in state and name + "w" in state
    ]


def image_size(state: Mapping[str, Any]) -> dict[str, Any]:
    """`img_size` in pixels from a square grid of positions; nothing where they are none."""
    rows = state["pos_embed"].shape[1] if "pos_embed" in state else 0
    side = square(rows) or square(rows - 1)  # one more row is a class token's
    return {"img_size": side * STRIDE} if side else {}


def window_size(table: Any) -> int:
    """The side of a square window, of its table's rows; 0 where it is no square."""
    return (square(table.shape[0]) + 1) // 2 if table.ndim else 0
