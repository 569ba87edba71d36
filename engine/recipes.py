"""Recipes as files: found by name, and read with the recipes that they stand on."""

import difflib
import os
import typing
from importlib import resources
from pathlib import Path
from typing import Any

from convmae.engine.errors import UserError
from convmae.engine.files import read_text
from convmae.engine.safe_yaml import parse_yaml

_DEEPEST = 30  # recipes on top of each other
Levels = dict[Path, dict[str, Any]]  # what each file of a recipe says, bases before what stands on them


def shipped_recipes() -> list[str]:
    """Returns the names of the recipes that come with the package."""
    return sorted(entry.name for entry in resources.files("convmae.configs").iterdir() if entry.name.endswith(".yaml"))


def find_recipe(name: str) -> Path:
    """Returns the file of a recipe: a path as it is, else a shipped recipe (``.yaml`` may be left out)."""
    path = Path(name)
    if os.path.isfile(path):
        return path
    shipped = shipped_recipes()
    for candidate in (path.name, f"{path.name}.yaml"):
        if candidate in shipped and path.parent in (Path(), Path("configs")):
            return Path(str(resources.files("convmae.configs") / candidate))
    hint = nearest(path.name, shipped)
    raise UserError(
        f"No recipe {name!r}: expected a YAML file or the name of a shipped recipe. "
        + (f"Did you mean {hint}?" if hint else "Shipped are: " + ", ".join(shipped) + ".")
    )


def nearest(word: str, known: typing.Iterable[str]) -> str | None:
    """Returns the known word that ``word`` most resembles, or None if none does."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def read_levels(recipe: Path) -> Levels:
    """Returns what a recipe and its bases say. Raises UserError for files that can't be read and bases without end."""
    return _levels(recipe, (), {})


def merged(levels: Levels) -> dict[str, Any]:
    """Returns levels as one tree, in which the nearer file wins."""
    tree: dict[str, Any] = {}
    for content in levels.values():
        tree = deep_update(tree, content)
    return tree


def _levels(path: Path, above: tuple[Path, ...], known: dict[Path, Levels]) -> Levels:
    """Returns the levels of a file; ``known`` are those of the files read so far, each of which is read once."""
    place = Path(os.path.realpath(path))  # Path.resolve raises for links that lead to themselves, before Python 3.13
    if place in above:
        raise UserError(f"{path}: its _base_ leads back to itself; expected a chain that ends.")
    if len(above) == _DEEPEST:
        raise UserError(f"{path} is the base of {_DEEPEST} recipes on top of each other; expected fewer.")
    if place not in known:
        known[place] = _read_levels(path, (*above, place), known)
    return known[place]


def _read_levels(path: Path, above: tuple[Path, ...], known: dict[Path, Levels]) -> Levels:
    content = parse_yaml(read_text(path), str(path))
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"{path}: found a {type(content).__name__}, expected keys and values such as 'optim:'.")
    bases = content.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: _base_ is {bases!r}; expected the name of a recipe, or a list of names.")
    levels: Levels = {}
    for base in bases:
        beside = path.parent / base
        base_path = beside if os.path.isfile(beside) else find_recipe(base)
        for one, said in _levels(base_path, above, known).items():
            levels.pop(one, None)  # the last place of a file that is there twice decides
            levels[one] = said
    return {**levels, path: content}


def deep_update(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Returns a tree with another's values in it, branch by branch."""
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = deep_update(merged[key], value) if both else value
    return merged
