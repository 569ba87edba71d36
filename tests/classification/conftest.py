"""Two classes of small pictures that even a tiny model tells apart: bright left halves and bright right halves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``data/train`` and ``data/val`` with the classes ``left`` and ``right``, 12 and 5 pictures each, and their names."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for split, count in (("train", 12), ("val", 5)):
        for name in ("left", "right"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 80, (32, 40, 3), dtype=np.uint8)
                half = slice(0, 20) if name == "left" else slice(20, 40)
                pixels[:, half] += 150
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    (root / "classes.txt").write_text("left\tbright left half\n")
    return root
