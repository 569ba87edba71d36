"""Reads recipes that were changed at random, their bytes or their parts, and values of --cfg-options.

python fuzz_recipes.py COUNT SEED: exit status 0 if each gave options or a UserError in time; prints how many of each and the
memory at most in MB.
"""

from __future__ import annotations

import faulthandler
import random
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from convmae.classification.config import FinetuningConfig
from convmae.detection.config import DetectionConfig
from convmae.engine.config import find_recipe, load_config, shipped_recipes
from convmae.engine.errors import UserError
from convmae.pretraining.config import PretrainingConfig
from convmae.segmentation.config import SegmentationConfig

SECONDS = 10  # for a recipe, before the process is ended for hanging
SCHEMAS = (PretrainingConfig, FinetuningConfig, DetectionConfig, SegmentationConfig)
TEXTS = [
    "1e400", "-1", ".nan", "-.inf", "null", "~", "[]", "{}", "[[[[", "}}", "'", '"', "&a [*a]", "*a", "!!python/name:os.system",
    "!!binary ab", "!!set {a, b}", "? a", "- -", "${a}", "${oc.env:HOME}", "???", "0x" + "f" * 400, "1" * 5000, "1_0", "0b1",
    "2001-01-01", "\u2028", "\x85", "a: b: c", "<<: {a: 1}", "<<: [1]", "yes", "\ud800", "\0", "[" * 2000, "{a: " * 500,
    "_base_: [x]", "_base_: 3", "_base_: ../", "? [a]\n: b", "%YAML 9.9", "---\n---", "\ufeff", "true", "1:2:3", "=", "!",
]  # fmt: skip
ODD: list[Any] = [
    None,
    -1,
    0,
    1e308,
    float("nan"),
    float("inf"),
    1 << 80,
    "",
    "x",
    [],
    {},
    [1, "a", None],
    {1: 2},
    True,
    [[[]]],
]


def change(text: str, draw: random.Random) -> str:
    """Returns a text with characters cut out, doubled, or hostile ones put in."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        place = draw.randrange(len(text) + 1)
        match draw.randrange(4):
            case 0:
                text = text[:place] + draw.choice(TEXTS) + text[place + draw.choice((0, 1, 5)) :]
            case 1:
                text = text[:place] + text[place + draw.choice((1, 2, 8, 40)) :]
            case 2:
                start = draw.randrange(len(text) + 1)
                text = text[:place] + text[start : start + draw.randrange(1, 60)] + text[place:]
            case _:
                text = (
                    text[:place] + chr(draw.choice((draw.randrange(128), draw.randrange(0x3000)))) + text[place + 1 :]
                )
    return text


def exchange(tree: Any, draw: random.Random) -> Any:
    """Returns a recipe's values with one of them, at any depth, or its key exchanged."""
    if not isinstance(tree, dict) or not tree or draw.random() < 0.1:
        return draw.choice(ODD)
    key = draw.choice(list(tree))
    if draw.random() < 0.1:
        return {**tree, draw.choice((1, None, "x", True, "")): tree[key]}
    return {**tree, key: exchange(tree[key], draw)}


def leaves(tree: Any, above: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [above]
    return [name for key, value in tree.items() for name in leaves(value, f"{above}.{key}" if above else str(key))]


def main(count: int, seed: int) -> None:
    faulthandler.enable()
    draw, fates = random.Random(seed), Counter[str]()
    texts = [find_recipe(name).read_text() for name in shipped_recipes()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "changed.yaml")
        for _ in range(count):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            text, overrides = draw.choice(texts), []
            match draw.randrange(3):
                case 0:
                    text = change(text, draw)
                case 1:
                    text = yaml.safe_dump(exchange(yaml.safe_load(text), draw))
                case _:
                    names = leaves(yaml.safe_load(text))
                    overrides = [f"{draw.choice(names)}={draw.choice(TEXTS)}" for _ in range(2)]
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            try:
                load_config(draw.choice(SCHEMAS), path, overrides)
                fates["read"] += 1
            except UserError:
                fates["refused"] += 1
    faulthandler.cancel_dump_traceback_later()
    print(dict(fates), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MB")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
