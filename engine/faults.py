"""What can be wrong with data: training refuses what stops it, `tools/check_data.py` collects and lists all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import numpy as np

from convmae.engine.errors import UserError
from convmae.engine.log import log

UNREADABLE = "unreadable pictures"  # the kind of fault that a run may skip
SHOWN = 3  # faults that one message tells
T = TypeVar("T")


class Effect(Enum):
    """What a fault does to training."""

    STOPS = "stops training"
    SKIPPED = "another picture takes its place"
    DOUBTFUL = "used as it is, but is it meant?"
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


def as_fault(error: UserError, kind: str) -> Fault:
    """Returns an error as the fault that it is, or as one of ``kind``."""
    return error if isinstance(error, Fault) else Fault(kind, str(error))


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


@dataclass(frozen=True)
class Remark:
    """A kind of fault that training goes on with, how many there are, and the first of them."""

    kind: str
    effect: Effect
    count: int
    first: tuple[str, ...]


class Tally:
    """Counts faults by kind and keeps the first ``SHOWN`` of each: a ``Report`` that stays small however many there are."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._kinds: dict[tuple[str, Effect], tuple[int, list[str]]] = {}
        for fault in faults:
            self(fault)

    def __call__(self, fault: Fault) -> None:
        """Takes in a fault."""
        count, first = self._kinds.get((fault.kind, fault.effect), (0, []))
        self._kinds[fault.kind, fault.effect] = (count + 1, first if count >= SHOWN else [*first, str(fault)])

    @property
    def remarks(self) -> list[Remark]:
        """The kinds so far, the gravest first."""
        order = list(Effect)
        found = [Remark(kind, effect, count, tuple(first)) for (kind, effect), (count, first) in self._kinds.items()]
        return sorted(found, key=lambda remark: order.index(remark.effect))


def log_remarks(split: str, remarks: Sequence[Remark]) -> None:
    """Warns in the run's log of what is left out of a split or may not be meant: a line for each kind, and the first fault."""
    for remark in remarks:
        if remark.effect is not Effect.NOTE:
            log.warning(f"{split} data: {remark.count} {remark.kind} ({remark.effect.value}): {remark.first[0]}")


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
