"""The study's bookkeeping: what belongs together by seed, what is run again and what is not."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from convmae.studies.runs import Ended, Run
from convmae.tools import pack, study
from convmae.tools.study import Study, read_rows, table, with_spread


def finished(folder: Path, top1: float | None, seconds: float | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({} if top1 is None else {"top1": top1}))
    if seconds is not None:
        (folder / "spent.json").write_text(json.dumps({"clock": 2 * seconds, "processor": seconds}))


@pytest.fixture
def kept(tmp_path: Path) -> Study:
    """A study of which seed 0 has no k-NN yet."""
    for seed, seconds, knn in ((0, 60.0, None), (1, 600.0, 0.5)):
        finished(tmp_path / f"fastconvmae_seed{seed}" / "pretrain", None, seconds)
        if knn is not None:
            finished(tmp_path / f"fastconvmae_seed{seed}" / "knn", knn)
        finished(tmp_path / f"scratch_seed{seed}" / "finetune_5", 0.3 + 0.1 * seed)
    return Study(tmp_path / "data", tmp_path, 3, [5, 10], 0, 4e-4, ["fastconvmae", "convmae"])


def test_minutes_and_accuracies_belong_together_by_seed(kept: Study) -> None:
    pretrained, scratch = read_rows(kept, [0, 1])
    assert pretrained.minutes == {0: 1.0, 1: 10.0}
    assert pretrained.accuracies["knn"] == {1: 0.5}
    assert scratch.label == "from scratch"
    assert scratch.accuracies == {"knn": {}, "linear": {}, "finetune_5": {0: 0.3, 1: 0.4}, "finetune_10": {}}


def test_the_table_has_mean_and_spread(kept: Study) -> None:
    assert with_spread([]) == ""
    assert with_spread([0.5], 100) == "50.0"
    assert with_spread([1, 2, 3]) == "2.0 ± 1.0"
    lines = table(read_rows(kept, [0, 1]), kept.measures, kept.minutes).splitlines()
    assert lines[0].startswith("| pretraining | minutes of processor time |")
    assert lines[0].endswith("| fine-tuned for 5 epochs, % | fine-tuned for 10 epochs, % |")
    assert lines[2] == "| FastConvMAE, E | 5.5 ± 6.4 | 50.0 |  |  |  |"
    assert lines[3] == "| from scratch |  |  |  | 35.0 ± 7.1 |  |"


def test_what_a_study_runs(tmp_path: Path) -> None:
    made = Study(tmp_path / "data", tmp_path, 3, [5, 10], 0, 4e-4, ["convmae_4"])
    folder, words = made.pretrain("convmae_4", 1)
    assert folder == tmp_path / "convmae_4_seed1" / "pretrain"
    assert {"schedule.epochs=12", "runtime.seed=1", f"data.root={tmp_path / 'data' / 'train'}"} <= set(words)
    assert [found[1][0] for found in made.probes("convmae_4", 1)] == ["knn", "linear_probe"]
    assert "model.arch=vit" in made.finetune("mae_4", 5, 0)[1]
    folder, words = made.finetune("scratch", 10, 0)
    assert folder == tmp_path / "scratch_seed0" / "finetune_10"
    assert {"schedule.epochs=10", "optim.layer_decay=1.0"} <= set(words)
    assert not any(word.startswith("model.init=") for word in words)
    assert "data.batch_size=32" in made.pretrain("fastconvmae_32", 0)[1]
    few = Study(tmp_path / "data", tmp_path, 3, [5, 10], 100, 4e-4, ["convmae_4"])
    assert "data.per_class=100" in few.finetune("convmae_4", 5, 0)[1]
    assert "data.per_class=100" not in few.pretrain("convmae_4", 0)[1]


def test_the_report_is_written_of_what_is_finished(kept: Study, capsys: pytest.CaptureFixture) -> None:
    for part in ("train", "val"):
        (kept.data / part).mkdir(parents=True)
        (kept.data / part / "1.jpg").write_bytes(b"one")
    assert pack.main([str(kept.data), str(kept.work_dir / "shards")]) == 0
    options = [str(kept.work_dir / "shards"), "--work-dir", str(kept.work_dir), "--only-report"]
    assert study.main(options) == 0
    options = [str(kept.data), "--work-dir", str(kept.work_dir), "--seeds", "0", "1", "1", "--only-report"]
    assert study.main(options) == 0
    assert (kept.work_dir / "study.png").stat().st_size > 10_000
    assert "5.5 ± 6.4" in (kept.work_dir / "table.md").read_text(encoding="utf-8")
    assert "minutes of processor time" in (kept.work_dir / "table.md").read_text(encoding="utf-8")
    assert study.main([*options, "--jobs", "0"]) == 2
    assert "must be 1 or more" in capsys.readouterr().err


def test_on_gpus_runs_go_side_by_side_and_the_clock_counts(kept: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "val"):
        (kept.data / part).mkdir(parents=True)
    called: list[tuple[int, list[str]]] = []

    def ran(runs: Sequence[Run], jobs: int, devices: Sequence[str]) -> Generator[Ended]:
        assert all("runtime.device=cuda" in run.words for run in runs)
        called.append((jobs, list(devices)))
        yield from map(Ended, runs)

    monkeypatch.setattr(study, "gpus", lambda device: ["0", "1"] if device == "auto" else [])
    monkeypatch.setattr(study, "finish", ran)
    words = [str(kept.data), "--work-dir", str(kept.work_dir), "--seeds", "0", "1", "--methods", "fastconvmae"]
    assert study.main(words) == 0
    assert called == [(2, ["0", "1"])] * 3
    written = (kept.work_dir / "table.md").read_text(encoding="utf-8")
    assert "| minutes of a GPU |" in written
    assert "| FastConvMAE, E | 11.0 ± 12.7 |" in written  # twice the processor time
