"""Reads weights files whose parts were exchanged at random for hostile ones, by every way of reading weights, and as --resume.

python fuzz_doors.py COUNT SEED (see tests/fuzzing.py).
"""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))
import fuzzing
from doors import DOORS
from hostile import CONFIGS, CONTENTS, METAS, VALUES

from convmae.engine.training.checkpoints import read_checkpoint
from convmae.engine.training.run_state import check_average, check_optimizer, check_tensors

ODD: list[Any] = [
    *METAS.values(), *CONFIGS.values(), -1, 1 << 70, float("nan"), True, b"x", (), {3: 4}, [[]], "\ud800", "x" * 10_000,
]  # fmt: skip


def exchange(content: Any, draw: random.Random) -> Any:
    """Returns content with something hostile in the place of a part of it, at any depth."""
    if isinstance(content, torch.Tensor) and draw.random() < 0.8:
        return draw.choice(list(VALUES.values()))(content)
    if isinstance(content, (dict, list)) and content and draw.random() < 0.9:
        changed = dict(content) if isinstance(content, dict) else list(content)
        keys = list(changed) if isinstance(changed, dict) else range(len(changed))
        key = draw.choice(list(keys))
        if isinstance(changed, dict) and draw.random() < 0.1:
            changed[draw.choice((3, None, "x", "model", "a" * 2000))] = changed.pop(key)
        elif draw.random() < 0.1:
            changed[key] = content
        else:
            changed[key] = exchange(changed[key], draw)
        return changed
    return draw.choice(ODD)


class Resumed:
    """A run's model and optimiser, as ``--resume`` compares a checkpoint with them."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.model(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()

    def content(self) -> dict[str, Any]:
        return {
            "state_dict": self.model.state_dict(),
            "optimizer": {**self.optimizer.state_dict(), "loss_scaler": {"scale": 2.0}},
            "meta": {"step": 1, "seed": 0, "samples": [10, 2], "dataset_meta": {"classes": ["a", "b", "c"]}},
            "average": {"steps": 1, "values": self.model.state_dict()},
        }

    def take(self, path: Path) -> None:
        content = read_checkpoint(path)
        check_tensors(content["state_dict"], self.model.state_dict(), path, "state_dict")
        check_optimizer(content["optimizer"], self.optimizer, path, content["meta"]["step"])
        check_average(content.get("average"), self.model.state_dict(), path)


def main() -> None:
    warnings.simplefilter("ignore")
    resumed = Resumed()
    around = [make for kind, make in CONTENTS.items() if not kind.startswith("all ")]
    doors: list[tuple[dict[str, Any], Callable[[Path], object]]] = [
        ({"model": door.state(), "meta": resumed.content()["meta"], "config": "model: {size: tiny}"}, door.use)
        for door in DOORS.values()
    ]
    doors += [(resumed.content(), resumed.take)] * (len(doors) // 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "changed.pth")

        def read(draw: random.Random) -> None:
            content, use = draw.choice(doors)
            for _ in range(draw.choice((1, 1, 2, 4))):
                content = exchange(content, draw)
            if draw.random() < 0.1 and isinstance(content, dict) and isinstance(content.get("model"), dict):
                content = draw.choice(around)(content["model"])
            take(content, use)

        def take(content: Any, use: Callable[[Path], object]) -> None:
            torch.save(content, path)
            use(path)

        # A run's own recipe is of one task, and detectron2 keeps no names of classes.
        taken = [
            one for name, one in zip(DOORS, doors, strict=False) if not name.startswith(("recipe", "convert to ours"))
        ]
        fuzzing.run(read, lambda: [take(*one) for one in [*taken, doors[-1]]])


if __name__ == "__main__":
    main()
