"""mmdet's own tools run in a process of their own, which has not imported the adapter, and mistakes are one message."""

import subprocess
import sys
from importlib import metadata

import pytest

from convmae.tools import run_mmdet


def run(*argv: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-m", "convmae.tools.run_mmdet", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_tool_that_imports_models_first_starts() -> None:
    pytest.importorskip("mmdet", reason="mmdet is not installed (docs/mmdetection.md says how)")
    done = run("test", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: test.py" in done.stdout
    done = run("tset")
    assert done.returncode == 2
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert said.startswith("error: mmdet has no tool tset; expected one of analysis_tools/analyze_logs, ")
    assert "Traceback" not in done.stderr
    done = run("train", "absent.py")
    assert done.returncode == 2
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "mmdet's train found no file: " in said
    assert "absent.py" in said
    assert "Traceback" not in done.stderr


def test_mmdet_that_is_absent_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.delitem(sys.modules, "convmae.detection.mmdet_operators", raising=False)
    assert run_mmdet.main(["train", "config.py"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: Found no mmdet; expected onedl-mmdetection 3.5.1")
    assert message.count("\n") == 1
