"""Tools in the place of the project's own, which write in a moment what these write, and say how they were called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from convmae.studies import runs

# A score that follows from the options: pretraining gains most where labels are few, and a rate of 0.001 is the best.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

words = sys.argv[1:]
tool = Path(__file__).stem
folder = Path(words[words.index("--work-dir") + 1])
options = dict(word.split("=", 1) for word in words[words.index("--cfg-options") + 1 :])
folder.mkdir(parents=True, exist_ok=True)
with open(folder.parent.parent / "calls.txt", "a") as calls:
    calls.write(f"{folder.parent.name}/{folder.name} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\\n")
if os.environ.get("STAND_IN_FAILS") and os.environ["STAND_IN_FAILS"] in str(folder):
    print("the gradient was not finite")
    sys.exit(2)
if os.environ.get("STAND_IN_WAITS") and os.environ["STAND_IN_WAITS"] in str(folder) and "--resume" in words:
    if not (folder / "step_1.pth").exists():
        def stop(*_):
            (folder / "step_1.pth").write_text("")
            sys.exit(130)
        signal.signal(signal.SIGTERM, stop)
        (folder / "waits").write_text("")
        time.sleep(60)
rows = [{"step": step, "seconds_per_step": 0.5} for step in range(1, int(options.get("schedule.steps", 1)) + 1)]
(folder / "scalars.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
for name in ("model.pth", "encoder.pth", "encoder.safetensors", "step_9.pth", "detections.json", "config.yaml", "log.txt"):
    (folder / name).write_text("")
(folder / "report").mkdir(exist_ok=True)
(folder / "report" / "index.html").write_text("")
share, seed = float(options.get("data.share", 1)), int(options.get("data.share_seed", 0))
gain = 0.1 * (1 - share) + 0.002 * (seed % 3) if "model.init" in options else 0
if os.environ.get("STAND_IN_BREAKS") and os.environ["STAND_IN_BREAKS"] in str(folder):
    (folder / "metrics.json").write_text(os.environ["STAND_IN_WRITES"])
    sys.exit(0)
score = 0.4 + 0.2 * share + 0.01 * (seed % 3) + gain - 0.05 * (options.get("optim.lr") != "0.001")
(folder / "metrics.json").write_text(json.dumps({"segm_mAP": score, "mIoU": score, "top1": score}))
"""
NAMES = ("pretrain", "finetune", "train_det", "train_seg")


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """Has studies start stand-ins of the tools; returns what tells the folders that were run below a work directory."""
    package = tmp_path / "package" / "stand_ins"
    package.mkdir(parents=True)
    for name in ("__init__", *NAMES):
        (package / f"{name}.py").write_text("" if name == "__init__" else STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(runs, "TOOLS", "stand_ins")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def called(work_dir: Path) -> list[str]:
        calls = work_dir / "calls.txt"
        return calls.read_text().splitlines() if calls.is_file() else []

    return called
