"""Recipes: small YAML files merged into one tree of dataclasses, checked before anything runs."""

import dataclasses
import functools
import json
import math
import os
import re
import typing
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf, UnionNode
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from convmae.engine.errors import UserError
from convmae.engine.files import read_config, write_whole
from convmae.engine.recipes import deep_update, find_recipe, merged, nearest, read_levels
from convmae.engine.safe_yaml import one_line, parse_yaml, write_yaml

Schema = TypeVar("Schema")


def option(
    default: Any,
    doc: str,
    choices: tuple[Any, ...] = (),
    *,
    low: float | None = None,
    high: float | None = None,
    length: int | None = None,
) -> Any:
    """Returns a dataclass field: default (a callable makes it anew), line shown by --help, choices, bounds, a list's length.

    Bounds are inclusive, and those of each element of a list. Of a number or a word (``Union[int, str]``) the choices are the
    words, and the bounds the number's.
    """
    metadata = {"doc": doc, "choices": choices, "low": low, "high": high, "length": length}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def branch(kind: type[Schema], **defaults: Any) -> Schema:
    """Returns a dataclass field that holds a branch of the tree, with these defaults in place of the branch's own."""
    return typing.cast(Schema, dataclasses.field(default_factory=functools.partial(kind, **defaults)))


def load_config(
    schema: type[Schema],
    recipe: str | Path | None,
    overrides: typing.Sequence[str] = (),
    option: str = "--cfg-options",
) -> Schema:
    """Returns ``schema`` filled from a recipe and ``a.b=c`` overrides.

    ``recipe`` is a path or the bare name of a shipped recipe; None gives the defaults. Raises UserError for an unknown recipe,
    an unknown key (with the nearest known one), a value of the wrong type or outside the choices; ``option``: how it names
    what gave the overrides.
    """
    tree, notes = OmegaConf.structured(schema), dict[str, tuple[str, ...]]()
    if recipe is not None:
        for path, content in read_levels(find_recipe(str(recipe))).items():
            tree = _over(tree, content, str(path), notes)
    return typing.cast(Schema, _override(tree, overrides, notes, option))


def from_tree(schema: type[Schema], content: Any, overrides: typing.Sequence[str] = ()) -> Schema:
    """Returns ``schema`` filled from plain containers, checked as a recipe is. Raises UserError as ``load_config`` does."""
    notes: dict[str, tuple[str, ...]] = {}
    tree = _over(OmegaConf.structured(schema), content, "options", notes)
    return typing.cast(Schema, _override(tree, overrides, notes))


def run_config(
    schema: type[Schema],
    checkpoint: Path,
    recipe: str | None = None,
    overrides: typing.Sequence[str] = (),
    default: str | None = None,
) -> Schema:
    """Returns what a checkpoint was made with: a recipe's tree, else what stands in it, the config.yaml beside it, a default.

    Raises UserError where there is none of these, and as ``load_config`` does.
    """
    if recipe is not None:
        return load_config(schema, recipe, overrides)
    source, beside = checkpoint, checkpoint.parent / "config.yaml"
    try:
        kept = parse_yaml(read_config(checkpoint), str(checkpoint))
        if isinstance(kept, dict):
            return from_tree(schema, kept, overrides)
        if beside.is_file():
            source = beside
            return load_config(schema, beside, overrides)
    except UserError as error:
        if overrides:
            run_config(schema, checkpoint)  # says so where the recipe itself is not right
            raise
        raise UserError(
            f"{error} ({source}, of the run that wrote the checkpoint, was read as this tool's recipe; if the run was of "
            "another kind, so are its weights. Another recipe: --config.)"
        ) from None
    if default is None:
        raise UserError(
            f"{checkpoint} does not say what model it is of, and no config.yaml lies beside it; give its recipe by --config."
        )
    return load_config(schema, default, overrides)


def save_config(config: Any, path: Path) -> None:
    """Writes a dataclass tree as YAML that ``load_config`` reads back."""
    write_whole(path, to_yaml(config))


def to_yaml(config: Any) -> str:
    """Returns a dataclass tree as YAML text."""
    return write_yaml(OmegaConf.to_container(OmegaConf.structured(config)))


def differing_options(one: Any, other: Any) -> list[tuple[str, str, str]]:
    """Returns the name and both values of each option in which two trees differ; a tree may be a YAML file.

    An option that only a tree of dataclasses has, not a file, is newer than the file: runs of then did as its default does now.
    Raises UserError for a file that is no tree.
    """
    first, second = (
        _flat(
            merged(read_levels(tree)) if isinstance(tree, Path) else OmegaConf.to_container(OmegaConf.structured(tree))
        )
        for tree in (one, other)
    )
    for file, values, tree in ((one, first, other), (other, second, one)):
        if isinstance(file, Path) and not isinstance(tree, Path):
            values.update({name: value for name, value in _flat(_defaults(tree)).items() if name not in values})
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return [(name, str(first.get(name, "–")), str(second.get(name, "–"))) for name in names]


def _defaults(tree: Any) -> Any:
    """Returns the defaults of a tree of dataclasses as plain containers."""
    return OmegaConf.to_container(OmegaConf.structured(OmegaConf.get_type(tree)))


def describe(tree: Any) -> str:
    """Returns every option of a tree, one a line as key=value with its type and doc, as --help shows it."""
    return "\n".join(f"  {key}={_written(value)} ({kind}): {doc}" for key, kind, value, doc in _walk(tree, ""))


def _written(value: Any) -> str:
    """Returns a value as --cfg-options takes it."""
    return str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _override(
    recipe: DictConfig,
    overrides: typing.Sequence[str],
    notes: dict[str, tuple[str, ...]],
    option: str = "--cfg-options",
) -> Any:
    """Returns a recipe's tree with ``a.b=c`` in it, checked, and what follows as of any level; branches have the ``notes``."""
    tree, given = recipe, dict[str, Any]()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
            raise UserError(f"{option} takes key=value, found {override!r}: write for example optim.lr=1e-4.")
        source = f"{option} {override}"
        names = key.split(".")
        above: Any = None
        current: Any = tree
        for depth, name in enumerate(names):
            if OmegaConf.get_type(current) is dict:  # whose names are others' than ours, and may have dots
                names[depth:] = [".".join(names[depth:])]
                above, current = current, current.get(names[depth])
                break
            above, current = current, getattr(current, name, None)
        either = isinstance(above, DictConfig) and isinstance(
            above._get_node(names[-1], validate_access=False), UnionNode
        )  # a word or a number
        # In place of a text what is given is one, whatever YAML makes of it, but for quotes and null; so is nothing after =.
        is_text = not text or (isinstance(current, str) and not either and text != "null" and text[0] not in "'\"")
        # Not OmegaConf.from_dotlist, whose YAML reader takes 1e-4 for a word.
        update: Any = text if is_text else parse_yaml(text, source)
        if (
            either and isinstance(update, str) and re.fullmatch("-?[0-9]+", update)
        ):  # a number in quotes, as of other options
            update = int(update)
        for name in reversed(names):
            update = {name: update}
        tree = _merge(tree, update, source)
        given = deep_update(given, update)
    config = _checked(_settled(recipe, tree, given, notes))
    for name, told in notes.items():
        getattr(config, name).notes = told
    return config


def _over(tree: DictConfig, level: dict[str, Any], source: str, notes: dict[str, tuple[str, ...]]) -> DictConfig:
    """Returns a tree with what a level says in it, a recipe or one that it stands on."""
    return _settled(tree, _merge(tree, level, source), level, notes)


def _settled(
    below: DictConfig, tree: DictConfig, given: dict[str, Any], notes: dict[str, tuple[str, ...]]
) -> DictConfig:
    """Returns a tree with what follows from what was ``given`` over the levels below, by a branch's ``settle``.

    What that changed is added to the ``notes`` of the branch.
    """
    for name, values in given.items():
        branch: Any = OmegaConf.to_object(tree[name]) if isinstance(values, dict) else None
        if hasattr(branch, "settle"):
            _check_values(branch, f"{name}.")  # it reckons with them
            told = branch.settle(OmegaConf.to_object(below[name]), values)
            tree = typing.cast(DictConfig, OmegaConf.merge(tree, {name: OmegaConf.structured(branch)}))
            notes[name] = (*notes.get(name, ()), *told)
    return tree


def _merge(tree: DictConfig, update: Any, source: str) -> DictConfig:
    try:
        return typing.cast(DictConfig, OmegaConf.merge(tree, _plain(update, source)))
    except ConfigKeyError as error:
        full = str(error.full_key or error.key)
        parent, _, name = full.rpartition(".")
        node = OmegaConf.select(tree, parent) if parent else tree
        siblings = [str(key) for key in node] if isinstance(node, DictConfig) else []
        elsewhere = {key.rpartition(".")[2]: key for key, *_ in reversed([*_walk(tree, "")])}  # the first of a name
        hint = nearest(name, siblings) or elsewhere.get(nearest(name, elsewhere) or "")
        known = f"Did you mean {hint!r}?" if hint else "Known here: " + ", ".join(siblings) + "."
        raise UserError(f"{source}: there is no option {full!r}. {known}") from None
    except OmegaConfBaseException as error:
        where = f" ({error.full_key})" if error.full_key else ""
        raise UserError(f"{source}{where}: {one_line(error.msg or error)}.") from None
    except OverflowError as error:  # of an integer with more than 308 digits; OmegaConf adds lines of its own
        raise UserError(f"{source}: {str(error).partition(chr(10))[0]}.") from None


def _plain(value: Any, source: str) -> Any:
    """Returns a recipe's values with ~ at the start of a text as the home folder; refuses what OmegaConf takes for more."""
    if isinstance(value, dict):
        return {key: _plain(one, source) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, source) for one in value]
    if isinstance(value, str) and ("${" in value or value == "???"):
        raise UserError(f"{source}: found {value!r}; expected the value itself, for nothing is looked up elsewhere.")
    return os.path.expanduser(value) if isinstance(value, str) else value


def _flat(tree: Any, above: str = "") -> dict[str, Any]:
    """Returns the leaves of a tree by their dotted names."""
    if not isinstance(tree, dict):
        return {above: tree}
    joined = (_flat(value, f"{above}.{key}" if above else str(key)) for key, value in tree.items())
    return {name: value for part in joined for name, value in part.items()}


def _walk(node: Any, prefix: str) -> typing.Iterator[tuple[str, str, Any, str]]:
    if isinstance(node, DictConfig):
        node = OmegaConf.to_object(node)
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{prefix}{field.name}.")
            continue
        if _is_tree_list(value):
            for number, item in enumerate(value):
                yield from _walk(item, f"{prefix}{field.name}[{number}].")
            continue
        choices = field.metadata.get("choices")
        either = ["int"] if typing.get_origin(field.type) is typing.Union and choices else []
        kind = "|".join([*either, *map(str, choices)]) if choices else _kind(field.type)
        yield f"{prefix}{field.name}", kind, value, field.metadata.get("doc", "")


def _kind(annotation: Any) -> str:
    """Returns a type as --help says it."""
    inner = [_kind(one) for one in typing.get_args(annotation) if one is not type(None)]
    if typing.get_origin(annotation) in (list, tuple):
        return f"list of {inner[0]}"
    if typing.get_origin(annotation) is dict:
        return f"{inner[1]} by name"
    return f"{inner[0]} or null" if inner else annotation.__name__


def _is_tree_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and dataclasses.is_dataclass(value[0])


def _checked(tree: DictConfig) -> Any:
    config = OmegaConf.to_object(tree)
    _check_values(config, "")
    return config


def _check_values(node: Any, prefix: str) -> None:
    for field in dataclasses.fields(node):
        value, key = getattr(node, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            _check_values(value, f"{key}.")
            continue
        if _is_tree_list(value):
            for number, item in enumerate(value):
                _check_values(item, f"{key}[{number}].")
            continue
        for name, one in value.items() if isinstance(value, dict) else ():
            if not isinstance(one, str):  # OmegaConf checks single values alone
                raise UserError(f"{key}.{name} is {one!r}; expected a text.")
        choices, low, high = (field.metadata.get(name) for name in ("choices", "low", "high"))
        is_number = low is not None and isinstance(value, int)  # in place of a word
        if choices and value not in choices and not is_number:
            hint = nearest(str(value), [str(choice) for choice in choices])
            raise UserError(
                f"{key} is {value!r}; expected one of {', '.join(map(str, choices))}"
                + (f", or a whole number of at least {low:g}." if low is not None else ".")
                + (f" Did you mean {hint!r}?" if hint else "")
            )
        length = field.metadata.get("length")
        if length is not None and value is not None and len(value) != length:
            raise UserError(f"{key} is {value}; expected {length} numbers.")
        for number in value if isinstance(value, list) else [value] if value not in (choices or ()) else []:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{key} is {value}; expected finite numbers.")
            if number is not None and ((low is not None and number < low) or (high is not None and number > high)):
                bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
                found = value if isinstance(value, list) or abs(value) > 1e300 else f"{value:g}"  # of an integer, too
                raise UserError(f"{key} is {found}; expected {bounds}.")
