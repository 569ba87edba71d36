"""Class lists: labels follow their order, so weights serve data whose list has the same names in the same order."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from convmae.engine.errors import UserError

MOST = 100_000  # classes, more than any data set has
SHOWN = 3  # names that one message tells of those that only one list has


def known_classes(meta: Mapping[str, Any]) -> list[str]:
    """Returns the list that labels follow of a weight file's ``meta``, as this project, mmengine or mmseg 0.x write it, or [].

    Where classes are folders, these count: their readable names may change.
    """
    dataset = meta.get("dataset_meta") or {}
    return list(map(str, dataset.get("folders") or dataset.get("classes") or meta.get("CLASSES") or ()))


def check_class_lists(meta: Mapping[str, Any], source: str | Path) -> None:
    """Raises UserError where a class list that ``known_classes`` would read in ``meta`` is no list of names."""
    dataset = meta.get("dataset_meta")
    if dataset is not None and not isinstance(dataset, Mapping):
        raise UserError(
            f"{source}: its dataset_meta is a {type(dataset).__name__}; expected a mapping that lists classes."
        )
    lists = {"folders": (dataset or {}).get("folders"), "classes": (dataset or {}).get("classes")}
    for key, names in {**lists, "CLASSES": meta.get("CLASSES")}.items():
        if names is None:
            continue
        if not isinstance(names, (list, tuple)):
            raise UserError(f"{source}: its class list ({key}) is a {type(names).__name__}; expected a list of names.")
        strange = [type(name).__name__ for name in names if not isinstance(name, (str, int))]
        if strange or len(names) > MOST:
            found = f"holds a {strange[0]}" if strange else f"has {len(names):,} entries"
            raise UserError(f"{source}: its class list ({key}) {found}; expected names, {MOST:,} at most.")


def class_difference(known: Sequence[str], expected: Sequence[str], where: str | Path, what: str = "classes") -> str:
    """Returns how the list that weights were trained on differs from the data's, as the end of a sentence, or "".

    Names are compared in order, whatever their Unicode form; weights that name none differ from no data. ``where``: the
    data; ``what``: the names, in the plural.
    """
    before, now = ([unicodedata.normalize("NFC", name) for name in names] for names in (known, expected))
    if not known or before == now:
        return ""
    old, new = next(pair for pair in zip_longest(before, now) if pair[0] != pair[1])
    if old is None:
        said = f"without {new!r}, which {where} has"
    elif new is None:
        said = f"with {old!r}, which {where} has not"
    else:
        said = f"with {old!r} where {where} has {new!r}"
    if sorted(before) == sorted(now):
        return f"was trained on {what} {said} (the same names in another order)"
    details = [f"{len(before)} and {len(now)} {what}"] if len(before) != len(now) else []
    sides = (("only there", _only(before, now)), ("only here", _only(now, before)))
    details += [f"{side}: {found}" for side, found in sides if found]
    return f"was trained on {what} {said}" + (f" ({'; '.join(details)})" if details else "")


def check_classes(
    source: str | Path,
    known: Sequence[str],
    expected: Sequence[str],
    where: str | Path,
    what: str = "classes",
    advice: str = "",
) -> None:
    """Raises UserError where there is a ``class_difference``."""
    difference = class_difference(known, expected, where, what)
    if difference:
        raise UserError(f"{source} {difference}; expected the same names in the same order{advice and f'; {advice}'}.")


def _only(names: Sequence[str], others: Sequence[str]) -> str:
    """Returns the first names that the other list lacks, for a message."""
    known = set(others)
    lacking = [name for name in names if name not in known]
    more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
    return ", ".join(map(repr, lacking[:SHOWN])) + more
