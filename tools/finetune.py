"""Fine-tune a pretrained encoder as a classifier of class folders.

python tools/finetune.py --config finetune_convmae_base_100e.yaml --cfg-options model.init=encoder.pth data.root=imagenet
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Callable, Sequence
from typing import Any

from convmae.classification.config import FinetuningConfig
from convmae.engine.commands.cli import train_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    return train_tool(argv, FinetuningConfig, read, description=__doc__ or "", recipe="finetune_convmae_base_100e.yaml")


def read() -> Callable[..., Any]:
    """Imports what does it, and PyTorch with it."""
    from convmae.classification.train import finetune

    return finetune


if __name__ == "__main__":
    sys.exit(main())
