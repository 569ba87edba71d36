"""The commands of docs/shards.md run, in their order, shortened."""

import re
import shlex
from pathlib import Path

import pytest

from convmae.tools import cli

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "shards.md"
SHORT = ["data.workers=0", "schedule.epochs=null", "schedule.steps=1", "schedule.warmup=0", "data.batch_size=2"]
SHORTENED = {
    "pretrain": ["--cfg-options", *SHORT, "model.size=tiny", "model.img_size=32", "data.bad_share=0.2"],
    "finetune": ["--cfg-options", *SHORT, "model.size=tiny", "model.img_size=32"],
}


def test_the_commands_run(
    tree: Path, classes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("broken.jpg", "deep.png", "planes.tif"):
        (tree / "a" / name).unlink()
    (tree.parent / "data").mkdir()
    tree.rename(tree.parent / "data" / "images")
    classes.rename(tree.parent / "data" / "imagenet")
    monkeypatch.chdir(tree.parent)
    blocks = re.findall(r"^```\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    for python, script, *options in lines:
        assert python == "python"
        assert cli.main([Path(script).stem, *options, *SHORTENED.get(Path(script).stem, [])]) == 0, options
    assert [Path(line[1]).stem for line in lines] == [
        "pack",
        "pack",
        "check_data",
        "pretrain",
        "check_data",
        "finetune",
        "predict",
    ]
    assert "predicted" in capsys.readouterr().out
