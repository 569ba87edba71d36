"""A signal while a tool starts: one line and no traceback, however the tool was called and whatever it was reading."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convmae.tools import cli

TOOLS = Path(cli.__file__).parent
# Stands for whatever a tool reads first: a signal comes meanwhile, and its exception would become another.
INTERRUPTED = """
import os, signal, sys, time
try:
    os.kill(os.getpid(), signal.{name})
    time.sleep(5)
except BaseException as error:
    raise ImportError("numpy._core.multiarray failed to import") from error
"""
CALLS: dict[str, Callable[[str], list[str]]] = {
    "script": lambda name: [str(TOOLS / f"{name}.py")],
    "module": lambda name: ["-m", f"convmae.tools.{name}"],
    "command": lambda name: ["-c", "import sys; from convmae.tools.cli import main; sys.exit(main())", name],
}


def started(command: list[str], tmp_path: Path, signal_name: str, **environment: str) -> subprocess.CompletedProcess:
    for name in ("torch", "numpy", "PIL", "yaml", "omegaconf", "mmengine", "matplotlib"):
        (tmp_path / f"{name}.py").write_text(INTERRUPTED.format(name=signal_name))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_while_a_tool_starts_is_one_line(call: str, tmp_path: Path) -> None:
    for name in cli.TOOLS:
        done = started(CALLS[call](name), tmp_path, "SIGINT")
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped.\n"), name


def test_sigterm_while_a_tool_starts_is_no_traceback(tmp_path: Path) -> None:
    for call in CALLS.values():
        done = started(call("pretrain"), tmp_path, "SIGTERM")
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


def test_of_several_processes_one_says_that_it_stopped(tmp_path: Path) -> None:
    done = started(CALLS["module"]("pretrain"), tmp_path, "SIGINT", RANK="1")
    assert (done.returncode, done.stderr) == (130, "")


def test_every_file_that_is_a_program_is_one_of_the_tools() -> None:
    programs = {path.stem for path in TOOLS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert programs == {*cli.TOOLS, "cli"}


def test_reading_a_tool_as_a_library_leaves_ctrl_c_as_it_is() -> None:
    code = "import signal, convmae.tools.scenes, convmae.tools.cli; print(signal.getsignal(signal.SIGINT).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "default_int_handler\n"
