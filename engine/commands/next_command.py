"""The training command to type once data are in order: its recipe goes by the number and the size of the pictures."""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple


class Choice(NamedTuple):
    """A recipe, and what it is for: so many training pictures at least, of such a shorter side at the median, in pixels."""

    recipe: str
    pictures: int
    side: int


# From the smallest on. A larger model on fewer pictures learns them by heart, and on smaller ones sees nothing more.
CHOICES = {
    "pretrain": (
        Choice("fastconvmae_tiny_96px.yaml", 0, 0),
        Choice("fastconvmae_small_100e.yaml", 10_000, 160),
        Choice("fastconvmae_base_50e.yaml", 200_000, 224),
    ),
    "finetune": (Choice("finetune_tiny_96px.yaml", 0, 0), Choice("finetune_convmae_base_100e.yaml", 50_000, 160)),
    "train_det": (
        Choice("mask_rcnn_tiny_256px.yaml", 0, 0),
        Choice("mask_rcnn_small_512px.yaml", 2_000, 320),
        Choice("mask_rcnn_convmae_25e.yaml", 50_000, 400),
    ),
    "train_seg": (
        Choice("upernet_tiny_camvid.yaml", 0, 0),
        Choice("upernet_tiny_256px.yaml", 0, 256),
        Choice("upernet_small_512px.yaml", 2_000, 320),
        Choice("upernet_convmae_160k_ade20k.yaml", 10_000, 400),
    ),
}


def choose(tool: str, pictures: int, side: float) -> str:
    """Returns the largest recipe of a tool that so many pictures of such a shorter side are enough for."""
    return [one.recipe for one in CHOICES[tool] if pictures >= one.pictures and side >= one.side][-1]


def next_command(
    tool: str,
    pictures: int,
    sizes: Collection[tuple[int, int]],
    recipe: str | None,
    root: str,
    options: Sequence[str],
) -> list[str]:
    """Returns the lines that tell how to train on ``pictures`` of these ``sizes``: by ``recipe``, or by the one that fits.

    ``root``: the data folder; ``options``: what of the recipe was set.
    """
    side = statistics.median(map(min, sizes)) if sizes else 0
    chosen = recipe or choose(tool, pictures, side)
    script = Path(sys.argv[0])
    words = ["python", str(script.with_name(f"{tool}.py"))] if script.suffix == ".py" else ["convmae", tool]
    own = [one for one in options if not one.startswith("data.root=")]
    words += [
        "--config",
        chosen,
        *["--auto"] * (tool == "pretrain" and not recipe),
        "--cfg-options",
        f"data.root={root}",
        *own,
    ]
    lines = [f"to train: {shlex.join(words)}"]
    if not recipe:
        lines.append(f"  the recipe is for {pictures:,} pictures whose shorter side is {side:g} pixels at the median")
    if tool != "pretrain" and not any(one.startswith("model.init=") for one in options):
        lines.append("  add model.init=FILE to start from weights of pretraining")
    return lines
