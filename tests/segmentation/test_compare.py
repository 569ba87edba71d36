"""Two runs side by side: differences that are those of the label maps, and what can't be compared in one message."""

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.engine.config import load_config, save_config
from convmae.reports.page import write_metrics
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.layout import find_pairs, read_label, split_folders
from convmae.segmentation.evaluation.predictions_file import read_predictions, write_predictions
from convmae.segmentation.evaluation.scores import SegmentationMetric
from convmae.tools.test_seg import main

CLASSES = ["square", "stripe", "dot"]


def write_run(root: Path, name: str, right: int, *options: str, classes: list[str] = CLASSES) -> Path:
    """Writes a work directory as a test leaves it: the first ``right`` rows of every picture are right, the others class 0."""
    config = load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml", [f"data.root={root}", *options])
    metric, folders = SegmentationMetric(classes), split_folders(config.data, "validation")
    pairs = find_pairs(*folders)
    for pair in pairs:
        truth = torch.from_numpy(read_label(pair.label, 3, True)).long()
        prediction = torch.where(torch.arange(len(truth))[:, None] < right, truth % 255, 0)
        maps = {"pred_sem_seg": {"data": prediction[None]}, "gt_sem_seg": {"data": truth[None]}}
        metric.process({}, [{**maps, "img_path": str(pair.image)}])
    work_dir = root.parent / name
    work_dir.mkdir()
    write_metrics(work_dir / "metrics.json", metric.evaluate(len(pairs)))
    write_predictions(work_dir / "predictions.zip", classes, metric.pictures, folders.image)
    save_config(config, work_dir / "config.yaml")
    return work_dir


@pytest.fixture
def runs(ade_root: Path) -> tuple[Path, Path]:
    """One with half of the rows right, and one with all."""
    return write_run(ade_root, "half", 20, "optim.lr=0.5"), write_run(ade_root, "all", 40, "optim.lr=0.25")


def refused(capsys: pytest.CaptureFixture, *folders: Path) -> str:
    assert main(["--compare", *map(str, folders), "--work-dir", str(folders[0].parent / "both"), "--overwrite"]) == 2
    error: str = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_names_that_are_no_unicode_are_kept(ade_root: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    for folder, ending in (("images", ".jpg"), ("annotations", ".png")):
        first = sorted((ade_root / folder / "validation").iterdir())[0]
        first.rename(first.with_name(name + ending))
    run = write_run(ade_root, "run", 40)
    with zipfile.ZipFile(run / "predictions.zip") as archive:
        assert "caf\\xe9.png" in archive.namelist()
    assert f"{name}.jpg" in [result.path for result in read_predictions(run / "predictions.zip").pictures]


def test_the_page_shows_what_the_second_run_gained(runs: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["--compare", *map(str, runs), "--work-dir", str(tmp_path / "both")]) == 0
    page = (tmp_path / "both/report/index.html").read_text()
    numbers = json.loads((tmp_path / "both/metrics.json").read_text())
    low, high = numbers["all"].pop("gain_intervals")["mIoU"]
    assert low < numbers["all"]["mIoU"] - numbers["half"]["mIoU"] < high
    assert set(numbers["all"].values()) == {1.0}
    gain = 100 * (1 - numbers["half"]["mIoU"])
    assert f"{gain:+.1f}" in page
    assert f"from {100 * numbers['half']['mIoU']:.1f} to 100.0" in page
    assert "Better in all" in page
    assert "Better in half" not in page
    assert re.search(r"picture_0\.jpg: \d\d\.\d % of labelled pixels right in half, 100\.0 % in all", page)
    for text in ("optim.lr", "Classes, boundary F", "stripe", "difference"):
        assert text in page
    again = json.loads((runs[0] / "metrics.json").read_text())
    assert numbers["half"] == {name: pytest.approx(value) for name, value in again.items()}


def test_label_maps_of_a_run_can_be_unpacked(runs: tuple[Path, Path], ade_root: Path) -> None:
    with zipfile.ZipFile(runs[1] / "predictions.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        assert names == [f"picture_{number}.png" for number in range(3)]
        with archive.open(names[1]) as file:
            kept = np.array(Image.open(file))
    truth = read_label(ade_root / "annotations/validation/picture_1.png", 3, True)
    assert np.array_equal(kept, truth % 255)


def test_runs_that_cannot_be_compared_are_refused(
    runs: tuple[Path, Path], ade_root: Path, capsys: pytest.CaptureFixture
) -> None:
    first, second = runs
    assert "twice" in refused(capsys, first, first)
    named = write_run(ade_root, "named", 30, classes=["square", "line", "dot"])
    assert "'stripe' stands for 'line'" in refused(capsys, first, named)

    fewer = write_run(ade_root, "fewer", 30, "data.val_images=images/training", "data.val_labels=annotations/training")
    assert "picture_3.jpg is in one alone" in refused(capsys, first, fewer)

    path = ade_root / "annotations/validation/picture_2.png"
    label = np.array(Image.open(path))
    Image.fromarray(label[::-1] % 3 + 1).save(path)
    other = write_run(ade_root, "other", 30)
    assert "label map of picture_2.jpg was another one in half than in other" in refused(capsys, first, other)
    assert "picture_2.png holds other labels than when the runs were tested" in refused(capsys, first, second)
    path.unlink()
    (ade_root / "images/validation/picture_2.jpg").unlink()
    assert "picture_2.jpg, on which the runs were tested" in refused(capsys, first, second)


def test_files_that_are_no_runs_are_refused(runs: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    first, second = runs
    edited = json.loads((second / "metrics.json").read_text()) | {"mIoU": 0.25}
    (second / "metrics.json").write_text(json.dumps(edited))
    assert "metrics.json says mIoU 0.25" in refused(capsys, first, second)
    for content in (b"PK", b"[1]"):
        (second / "predictions.zip").write_bytes(content)
        assert "doesn't hold the label maps" in refused(capsys, first, second)
    with zipfile.ZipFile(second / "predictions.zip", "w") as archive:
        archive.writestr("counts.json", '{"classes": ["a"], "pictures": [{"picture": "x"}]}')
    assert "doesn't hold the label maps" in refused(capsys, first, second)
    (second / "predictions.zip").unlink()
    assert "There is no" in refused(capsys, first, second)
