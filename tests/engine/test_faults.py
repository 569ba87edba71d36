"""Faults of data: counted by kind, the gravest first, and said in a run's log."""

from types import SimpleNamespace

import pytest

from convmae.engine import faults
from convmae.engine.faults import SHOWN, Effect, Fault, Tally, log_remarks


def test_tally_counts_all_and_keeps_the_first() -> None:
    tally = Tally(Fault("notes", f"note {number}", Effect.NOTE) for number in range(1000))
    tally(Fault("doubts", "a doubt", Effect.DOUBTFUL))
    doubts, notes = tally.remarks
    assert (doubts.kind, doubts.count, doubts.first) == ("doubts", 1, ("a doubt",))
    assert (notes.kind, notes.count) == ("notes", 1000)
    assert notes.first == tuple(f"note {number}" for number in range(SHOWN))


def test_log_warns_of_all_but_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(faults, "log", SimpleNamespace(warning=said.append))
    kinds = {Effect.NOTE: "turned", Effect.DOUBTFUL: "odd", Effect.LEFT_OUT: "empty"}
    tally = Tally(Fault(kind, f"{kind} one", effect) for effect, kind in kinds.items())
    log_remarks("training", tally.remarks)
    assert said == [
        "training data: 1 odd (used as it is, but is it meant?): odd one",
        "training data: 1 empty (object is left out): empty one",
    ]
