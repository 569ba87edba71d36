"""What can be wrong with data: training refuses what stops it, `tools/check_data.py` collects and lists all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, TypeVar

import numpy as np

from convmae.engine.errors import UserError

SHOWN = 3  # faults that one message tells
T = TypeVar("T")


class Effect(Enum):
    """What a fault does to training."""

    STOPS = "stops training"
    LEFT_OUT = "object is left out"
    NOTE = "used as it is"


class Fault(UserError):
    """Something wrong with one entry or picture; ``kind`` names it in tables, the message says file and id.

    ``image`` is what the task knows the picture by, where there is one.
    """

    def __init__(self, kind: str, message: str = "", effect: Effect = Effect.STOPS, image: Any = None) -> None:
        super().__init__(message or kind)  # PyTorch makes a loader process's error again from its message alone
        self.kind, self.effect, self.image = kind, effect, image


Report = Callable[[Fault], None]


def refuse(fault: Fault) -> None:
    """Raises a fault that stops training."""
    if fault.effect is Effect.STOPS:
        raise fault


def refuse_all(faults: Sequence[Fault]) -> None:
    """Raises UserError with the first faults that stop training, if there are any."""
    found = [str(fault) for fault in faults if fault.effect is Effect.STOPS]
    if found:
        more = [f"(and {len(found) - SHOWN} more faults; tools/check_data.py lists all)"] * (len(found) > SHOWN)
        raise UserError("\n".join(found[:SHOWN] + more))


def by_kind(faults: Sequence[Fault]) -> dict[str, list[Fault]]:
    """Returns the faults by kind, those that stop training first."""
    kinds: dict[str, list[Fault]] = {}
    for fault in sorted(faults, key=lambda fault: list(Effect).index(fault.effect)):
        kinds.setdefault(fault.kind, []).append(fault)
    return kinds


def spread(items: Sequence[T], count: int) -> list[T]:
    """Returns ``count`` items spread evenly, or all if there are no more."""
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[number] for number in chosen.tolist()]
