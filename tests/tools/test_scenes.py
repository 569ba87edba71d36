"""`tools/scenes.py`: the options of the generated scenes, and a folder that holds others."""

from pathlib import Path

import pytest

from convmae.tools.scenes import main


def test_the_tool_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    small = ["--train", "2", "--val", "1", "--unlabelled", "0", "--size", "64"]
    assert main([str(tmp_path / "set"), *small]) == 0
    assert f"ade20k: {tmp_path / 'set' / 'ade20k'}" in capsys.readouterr().out
    assert main([str(tmp_path / "set"), *small, "--seed", "1"]) == 2
    assert "give another folder" in capsys.readouterr().err
