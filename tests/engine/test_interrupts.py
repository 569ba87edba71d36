"""Ctrl-C while a tool runs."""

import os
import signal

import pytest

from convmae.engine.cli import run_tool


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


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


def test_a_tool_that_ignores_ctrl_c_goes_on_doing_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `nohup` has it
    try:
        assert run_tool(interrupt) == 0
    finally:
        signal.signal(signal.SIGINT, before)
