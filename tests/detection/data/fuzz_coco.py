"""Checks and reads COCO files whose values were changed at random: python fuzz_coco.py COUNT SEED (see tests/fuzzing.py)."""

from __future__ import annotations

import json
import logging
import random
import sys
import tempfile
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
import fuzzing
from detection.conftest import write_split

from convmae.detection.checks.data_check import check_data
from convmae.detection.checks.preflight import read_splits
from convmae.detection.config import DetectionConfig
from convmae.detection.data.dataset import TrainSet

RAW = {  # what Python's encoder does not write, by texts that stand for it
    "@deep": "[" * 10_000 + "]" * 10_000,
    "@shallow": "[" * 800 + "]" * 800,
    "@object": '{"a":' * 900 + "1" + "}" * 900,
    "@long": "9" * 4000,
    "@longer": "9" * 5000,
    "@beyond": "1e400",
}
HOSTILE: list[Any] = [
    *RAW, None, True, False, "", "1", "nan", "../0.png", "/etc/passwd", "a\0b", "\udce9", "PPP", "0" * 50, "_" * 9 + "0",
    0, -1, 1, 7, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30), 10**9, 65_536, 46_341,
    0.5, -0.0, 1e9, 1e29, 1e30, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf"),
    [], [[]], {}, [None], [0], [1e30] * 4, [0, 0, 1e29, 1e29], [-1e29, -1e29, 2e29, 2e29], [64, 96], [2**16, 2**16], [2**32],
    [[0, 0, 1e9, 0, 1e9, 1e9]], [[0, 0, 90, 60] * 3000], [[float("nan")] * 6], [[1e308] * 6], [[2**70] * 6],
    [[10**400, 1, 2, 3, 4, 5]], {"size": [64, 96], "counts": [2**32, 0]}, {"size": [64, 96], "counts": [-1, 6145]},
    {"size": [64, 96], "counts": [0] * 5000 + [6144]}, {"size": [10**9, 10**9], "counts": [10**18]},
    {"size": [64, 96], "counts": "oooooooooooo0"}, {"size": [64, 96], "counts": "PPo0"}, {"size": 7, "counts": "0"},
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Returns each place in a value, as what holds it and its key or index."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *places(value[key]))]


def near(value: Any, draw: random.Random) -> Any:
    """Returns a value like one that stands there, which may well be taken."""
    if type(value) in (int, float):
        return value + draw.choice((-1, 1, 0.25, -0.25, 0))
    if isinstance(value, str):
        return value + draw.choice(("", " ", "\u00e9", "x"))
    return deepcopy(value)


def change(content: dict[str, Any], draw: random.Random) -> str:
    """Returns a file with a few of its values replaced, taken out, doubled, moved or wrapped."""
    content = deepcopy(content)
    for _ in range(draw.choice((1, 1, 1, 2, 6))):
        if not (held := places(content)):
            break
        holder, key = draw.choice(held)
        match draw.randrange(12):
            case 0:
                del holder[key]
            case 1:
                other, place = draw.choice(held)
                holder[key] = deepcopy(other[place])
            case 2:
                holder[key] = [holder[key]]
            case 3 if isinstance(holder, list):
                holder.insert(key, holder[key])
            case 4 | 5 | 6 | 7:
                holder[key] = near(holder[key], draw)
            case _:
                holder[key] = deepcopy(draw.choice(HOSTILE))
    text = json.dumps(content)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    if draw.random() < 0.05:
        return json.dumps(draw.choice(HOSTILE))
    if draw.random() < 0.1:  # a key twice
        key = draw.choice(('"id":', '"bbox":', '"images":', '"width":', '"annotations":'))
        text = text.replace(key, f"{key} {draw.choice(('1', '[]', 'null'))}, {key}", draw.randrange(1, 3))
    return text


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("error", RuntimeWarning)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = write_split(folder)
        config = DetectionConfig()
        data = config.data
        data.root, data.img_size = name, 64
        data.train_images = data.val_images = "images"
        data.train_annotations, data.val_annotations = "changed.json", "instances.json"

        def read(draw: random.Random) -> None:
            take(change(content, draw))

        def take(text: str) -> None:
            (folder / "changed.json").write_text(text, errors="surrogatepass")
            check_data(config)  # which reports all, and refuses nothing
            train, _ = read_splits(data, masks=True)
            samples = TrainSet(train, data, masks=True)
            for index in range(len(samples)):
                samples[index]

        fuzzing.run(read, lambda: take(json.dumps(content)))


if __name__ == "__main__":
    main()
