"""Every example of docs/python.md runs, one after the other, on models that train in seconds."""

import re
import shutil
from pathlib import Path

import pytest
from small_states import write_classifier, write_segmenter
from tiny_detector import write_run

from convmae.engine.pictures import scenes

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "python.md"
SHORT = 'data__workers=0, schedule__epochs=None, schedule__steps=2, schedule__warmup=0, runtime__precision="fp32"'
SMALL = {
    "data__img_size=512": "data__img_size=64",
    "    schedule__epochs=1,  # pass": f"    model__img_size=32, {SHORT},  #",
    "    schedule__epochs=1,\n": f'    {SHORT}, data__img_size=64, model__fpn_channels=16, model__norm="gn",\n',
}


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    made = scenes.generate(tmp_path / "made", train=4, val=2, size=320)
    pictures = sorted(made.images.rglob("*.*g"))
    Path("pictures").symlink_to(made.images)
    Path("coco").symlink_to(made.coco)
    shutil.copy(pictures[0], "a.jpg")
    for name in ("det", "seg", "cls"):
        Path("work_dirs", name).mkdir(parents=True)
    write_run(Path("work_dirs/det"))
    write_segmenter(Path("work_dirs/seg/model.pth"))
    write_classifier(Path("work_dirs/cls/model.pth"))
    examples = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(examples) >= 10
    whole = "\n".join(examples)
    for long, short in SMALL.items():
        assert long in whole, long
        whole = whole.replace(long, short)
    exec(compile(whole, str(DOCUMENT), "exec"), {"__name__": "example"})
    said = capsys.readouterr().out
    assert "pictures[1] is an array of float64 from 0 to " in said
    assert Path("drawn.png").is_file()
    assert Path("runs/det/report/index.html").is_file()
