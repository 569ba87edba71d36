"""Finds the weights in a file of any known layout: at its top, under the usual keys, or under a key that was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from convmae.backbones.weights.safe_files import CheckpointError, read_file
from convmae.zoo import shipped_file

# Where training code keeps the weights inside a checkpoint, the most specific first.
CONTAINERS = ("state_dict", "model", "module", "model_state", "model_state_dict", "model_ema", "state_dict_ema")

LONGEST_NAME = 1000  # characters
_SHOWN = 8  # keys that a message tells
_DEEPEST = 8  # containers that lead to the weights
_Found = tuple[dict[str, Any], list[str]] | None  # weights, and the keys that lead to them
_Known = dict[tuple[int, int], _Found]  # what a search found, by the container's id and the levels that were left


def split_choice(path: str | Path) -> tuple[Path, str]:
    """Splits FILE:KEY, which chooses among the models in a file, into file and key; the key is "" where there is none.

    A path that exists is a file, whatever colons are in its name; the name of weights in `zoo` is theirs.
    """
    if (shipped := shipped_file(path)) is not None:
        return shipped, ""
    file, colon, key = str(path).rpartition(":")
    if colon and Path(file).is_file() and not Path(path).exists():
        return Path(file), key
    return Path(path), ""


def read_weights(path: str | Path) -> tuple[dict[str, Any], str]:
    """Reads weights from a file, or from FILE:KEY.

    Known layouts: PyTorch files of any age (zip and legacy), detectron2's pickles of numpy arrays, safetensors; the
    weights may stand at the top, under one of `CONTAINERS`, or under another key if no second one holds weights. A key
    chooses one of several models, "teacher", say; dots lead on ("model.teacher"), also into the names of weights. In a
    checkpoint of a run that averages its weights the average stands in their place, as in what the run evaluates and
    exports, unless a key is given.

    Returns:
        The weights by name as the file names them, and where they were found ("FILE" or "FILE, under 'model'").

    Raises:
        CheckpointError: no such file or key, not a file of weights, damaged, or it holds objects that are not weights.
    """
    file, key = split_choice(path)
    content = read_file(file)
    state, inside = find_weights(content, str(file), key)
    source = f"{file}, under {inside}" if inside else str(file)
    average = None if key else _follow(content, "average.values")
    if not isinstance(average, Mapping):
        return state, source
    for name, value in average.items():
        if getattr(value, "shape", None) != getattr(state.get(name), "shape", ()):
            raise CheckpointError(
                f"{source}: its average has {_shown(name)}, which is no tensor of the weights or has another shape; expected "
                f"the average of these weights. To take them as they are: {file}:{CONTAINERS[0]}"
            )
    return {**state, **average}, f"{source}, averaged"


def find_weights(content: object, source: str, key: str = "") -> tuple[dict[str, Any], str]:
    """Finds the mapping of names to tensors in a checkpoint's content, or in what stands there under a key.

    Returns:
        The mapping, and the keys that lead to it ("'model'", or "" at the top) with those of other weights beside it.

    Raises:
        CheckpointError: there is none, or there are several and none of them is usual, or a name in it is no text.
    """
    state, inside = _find_chosen(content, source, key) if key else _find_usual(content, source)
    for name in state:
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise CheckpointError(
                f"{source} has weights under {_shown(name)}; expected names, of at most {LONGEST_NAME} characters"
            )
    return state, inside


def _find_usual(content: object, source: str) -> tuple[dict[str, Any], str]:
    known: _Known = {}
    models, found = _models(content, known), _search(content, known)
    if found is None and len(models) == 1:
        (only,) = models
        found = models[only], [only]
    if found is not None:
        state, keys = found
        others = [
            f"FILE:{name}" for name, other in models.items() if keys and name != keys[0] and _differs(other, state)
        ]
        beside = f" (it holds others too: {', '.join(others)})" if others else ""
        return state, ", ".join(map(repr, keys)) + beside
    expected = "tensors by name, or these under 'model' or 'state_dict'"
    if models:
        expected = f"one model, or the key of the one that is meant: {' or '.join(f'FILE:{name}' for name in models)}"
    raise CheckpointError(f"{source} holds {_holds(content)}; expected {expected}")


def _find_chosen(content: object, source: str, key: str) -> tuple[dict[str, Any], str]:
    chosen = _follow(content, key)
    if chosen is None and (inner := _search(content, {})):  # a part of the names that stand under 'state_dict', say
        chosen = _follow(inner[0], key)
    if chosen is None:
        above = _follow(content, key.partition(".")[0])
        raise CheckpointError(
            f"{source} has nothing under {key!r}; found {_holds(content if above is None else above)}"
        )
    found = _search(chosen, {})
    if found is None:
        raise CheckpointError(f"{source} holds {_holds(chosen)} under {key!r}; expected tensors by name")
    return found[0], ", ".join(map(repr, [key, *found[1]]))


def _search(content: object, known: _Known, levels: int = _DEEPEST) -> _Found:
    """The weights at the top or under the usual keys, and the keys that lead there, in so many containers at most."""
    if not isinstance(content, Mapping) or not levels:
        return None
    place = id(content), levels
    if place not in known:  # else what lies in eight usual keys would be looked at 2^8 times
        known[place] = _look(content, known, levels)
    return known[place]


def _look(content: Mapping[Any, Any], known: _Known, levels: int) -> _Found:
    for key in CONTAINERS:
        found = _search(content.get(key), known, levels - 1)
        if found is not None:
            return found[0], [key, *found[1]]
    # A number or a generator's state may stand beside a model.
    arrays = sum(isinstance(value, (Tensor, np.ndarray)) for value in content.values())
    most = max(map(len, _models(content, known, levels - 1).values()), default=0)
    return (dict(content), []) if arrays > most else None


def _models(content: object, known: _Known, levels: int = _DEEPEST) -> dict[str, dict[str, Any]]:
    """The weights under each key of a checkpoint that holds a model, the usual ones or not; a loss has fewer tensors."""
    if not isinstance(content, Mapping):
        return {}
    found = {
        key: part[0]
        for key, value in content.items()
        if isinstance(key, str) and (part := _search(value, known, levels))
    }
    most = max(map(len, found.values()), default=0)
    return {key: state for key, state in found.items() if len(state) > 1 and 2 * len(state) >= most}


def _differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two mappings hold other values; one that stands under two keys of a file is read as the same."""
    return len(one) != len(other) or any(one[name] is not other.get(name) for name in one)


def _follow(content: object, key: str) -> object:
    """What stands under a key, of which dots lead on into what it holds and into names; None for nothing."""
    if not isinstance(content, Mapping):
        return None
    if key in content:
        return content[key]
    parts = key.split(".")
    for end in range(1, len(parts)):
        found = _follow(content.get(".".join(parts[:end])), ".".join(parts[end:]))
        if found is not None:
            return found
    below = f"{key}."
    named = {name: value for name, value in content.items() if isinstance(name, str) and name.startswith(below)}
    return {name.removeprefix(below): value for name, value in named.items()} or None


def _holds(content: object) -> str:
    """What a message says of content: a mapping's keys (of names with dots their first parts), or what else it is."""
    if not isinstance(content, Mapping):
        return f"one {type(content).__name__}"
    keys = list(dict.fromkeys(_shown(key.partition(".")[0] if isinstance(key, str) else key) for key in content))
    return ", ".join(keys[:_SHOWN]) + f" and {len(keys) - _SHOWN} more" * (len(keys) > _SHOWN) or "nothing"


def _shown(key: object) -> str:
    return f"{key!r:.60}" if isinstance(key, (str, int, float, bytes)) else f"a {type(key).__name__}"
