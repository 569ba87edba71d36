"""Ctrl-C while a tool runs."""

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from convmae.engine.commands.cli import run_tool
from convmae.engine.machine.interrupts import ctrl_c_raises
from convmae.engine.machine.stop_signals import stop_signals


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)  # in this thread, before the next line


def test_ctrl_c_in_a_tool_closes_what_is_open_and_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    closed = []

    def main() -> None:
        try:
            interrupt()
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGINT)
    ended: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: ended.append(number))  # as while a tool starts
    try:
        assert run_tool(main) == 130
        assert not ended
        interrupt()
        assert ended == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
    assert closed
    assert capsys.readouterr().err == "Stopped.\n"


def test_one_process_of_several_says_that_they_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run_tool(interrupt) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("takes", [ctrl_c_raises, stop_signals])
def test_a_signal_that_a_c_library_has_stays_its_own(
    takes: Callable[[], AbstractContextManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("it was taken, and can't be put back"))
    with takes():
        pass


def test_a_tool_that_ignores_ctrl_c_goes_on_doing_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `nohup` has it
    try:
        assert run_tool(interrupt) == 0
    finally:
        signal.signal(signal.SIGINT, before)
