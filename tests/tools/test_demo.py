"""The demo, shortened to a few steps: every part runs and one page shows them all."""

import json
from pathlib import Path

import pytest

from convmae.tools import demo


def test_the_demo_writes_one_report_of_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    work_dir = tmp_path / "demo"
    assert demo.main(["--work-dir", str(work_dir), "--scale", "0.005", "--device", "cpu"]) == 0
    page = (work_dir / "report" / "index.html").read_text(encoding="utf-8")
    for title in ("Pretraining", "Detection", "Segmentation", "Reconstructions", "box AP", "mask AP", "mIoU"):
        assert title in page
    assert "bbox_mAP" in json.loads((work_dir / "detection" / "metrics.json").read_text())
    assert demo.main(["--work-dir", str(work_dir), "--scale", "0.005"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_wrong_scale_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert demo.main(["--work-dir", str(tmp_path), "--scale", "0"]) == 2
    assert "more than 0 and at most 1" in capsys.readouterr().err
