"""Pretrain an encoder on plain images by ConvMAE or FastConvMAE.

python tools/pretrain.py --config fastconvmae_base_50e.yaml --cfg-options data.root=path/to/pictures
python tools/pretrain.py --config convmae_tiny_96px.yaml --auto --cfg-options data.root=path/to/pictures
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Callable, Sequence
from typing import Any

from convmae.engine.commands.cli import train_tool
from convmae.pretraining.config import PretrainingConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    return train_tool(
        argv, PretrainingConfig, read, description=__doc__ or "", recipe="fastconvmae_base_50e.yaml", read_fit=read_fit
    )


def read() -> Callable[..., Any]:
    """Imports what does it, and PyTorch with it."""
    from convmae.pretraining.train import train

    return train


def read_fit() -> Callable[..., Any]:
    """Imports what fits a recipe to its pictures."""
    from convmae.pretraining.auto import fitted

    return fitted


if __name__ == "__main__":
    sys.exit(main())
