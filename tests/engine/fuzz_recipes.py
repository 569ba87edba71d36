"""Reads recipes that were changed at random, their bytes or their parts, and values of --cfg-options.

python fuzz_recipes.py COUNT SEED (see tests/fuzzing.py).
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
import fuzzing

from convmae.classification.config import FinetuningConfig, ProbeConfig
from convmae.detection.config import DetectionConfig
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.recipes import find_recipe, shipped_recipes
from convmae.pretraining.config import PretrainingConfig
from convmae.segmentation.config import SegmentationConfig

SCHEMAS = (PretrainingConfig, FinetuningConfig, ProbeConfig, DetectionConfig, SegmentationConfig)
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


def schema_of(name: str) -> type:
    """Returns what a shipped recipe is of."""
    for schema in SCHEMAS:
        with contextlib.suppress(UserError):
            load_config(schema, name)
            return schema
    raise AssertionError(f"{name} is no recipe")


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
    if type(tree) in (int, float) and draw.random() < 0.5:
        return tree * draw.choice((0.5, 1, 2))
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


def main() -> None:
    recipes = [(find_recipe(name).read_text(), schema_of(name)) for name in shipped_recipes()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "changed.yaml")

        def read(draw: random.Random) -> None:
            text, schema = draw.choice(recipes)
            overrides = []
            match draw.randrange(3):
                case 0:
                    text = change(text, draw)
                case 1:
                    text = yaml.safe_dump(exchange(yaml.safe_load(text), draw))
                case _:
                    names = leaves(yaml.safe_load(text))
                    overrides = [f"{draw.choice(names)}={draw.choice(TEXTS)}" for _ in range(draw.randrange(1, 3))]
            take(text, schema if draw.random() < 0.9 else draw.choice(SCHEMAS), overrides)

        def take(text: str, schema: type, overrides: Sequence[str] = ()) -> None:
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            load_config(schema, path, overrides)

        fuzzing.run(read, lambda: [take(*one) for one in recipes])


if __name__ == "__main__":
    main()
