"""Whatever classes and pictures are called, a run's numbers, label maps and pages are written, and read back."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from names import NASTY

from convmae.engine.config import load_config, save_config
from convmae.segmentation.checks.data_report import write_data_report
from convmae.segmentation.checks.splits import check_split
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.class_list import read_classes
from convmae.segmentation.data.layout import read_label, split_folders
from convmae.segmentation.evaluation.predictions_file import read_predictions
from convmae.segmentation.evaluation.report import write_report
from convmae.segmentation.evaluation.scores import SegmentationMetric
from convmae.tools.test_seg import main

PREFIX = os.fsdecode(b"h\xfc $x$\n<b>")  # not in UTF-8


@pytest.fixture
def nasty_root(ade_root: Path) -> Path:
    """``ade_root`` with nasty names of pictures, and of classes as far as a list of lines can hold them."""
    for folder in ("images", "annotations"):
        for path in list((ade_root / folder / "validation").iterdir()):
            path.rename(path.with_name(PREFIX + path.name))
    names = dict.fromkeys(" ".join(name.split()) for name in NASTY if name.isprintable() and name.strip())
    lines = ["0\tother", *(f"{index}\t{name}" for index, name in enumerate(names, 1))]
    (ade_root / "classes.txt").write_bytes("\r\n".join(lines).encode("utf-16"))
    return ade_root


def write_run(root: Path, work_dir: Path, right: int) -> dict[str, float]:
    """Writes a work directory as a run leaves it; the first ``right`` rows are right, the others are of the class 0."""
    config = load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml", [f"data.root={root}"])
    classes = read_classes(config.data)
    found = check_split("validation", config.data, len(classes), True)
    metric = SegmentationMetric(classes)
    for pair in found.pairs:
        truth = torch.from_numpy(read_label(pair.label, len(classes), True)).long()
        prediction = torch.where(torch.arange(len(truth))[:, None] < right, truth % 255, 0)
        maps = {"pred_sem_seg": {"data": prediction[None]}, "gt_sem_seg": {"data": truth[None]}}
        metric.process({}, [{**maps, "img_path": str(pair.image)}])
    metric.evaluate(len(found.pairs))
    work_dir.mkdir()
    save_config(config, work_dir / "config.yaml")
    write_report(metric, config, [found], work_dir, 1.0, Path("model.pth"))
    content: dict[str, float] = json.loads((work_dir / "metrics.json").read_text(encoding="ascii"))
    return content


def test_nasty_names_lose_no_number_and_no_label_map(nasty_root: Path, tmp_path: Path) -> None:
    metrics = write_run(nasty_root, tmp_path / "run", 20)
    classes = read_classes(
        load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml", [f"data.root={nasty_root}"]).data
    )
    assert {f"IoU/{name}" for name in classes} <= metrics.keys()
    kept, pictures = read_predictions(tmp_path / "run" / "predictions.zip")
    assert kept == classes
    folder = split_folders(SegmentationConfig().data, "validation").image.name
    assert {result.path for result in pictures} == {path.name for path in (nasty_root / "images" / folder).iterdir()}
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "h\\xfc $x$" in page
    assert "한국어" in page


def test_runs_on_nasty_names_are_compared(nasty_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, right in (("step", 20), ("_$run$", 40)):
        write_run(nasty_root, tmp_path / name, right)
    runs = [str(tmp_path / "step"), str(tmp_path / "_$run$")]
    assert main(["--compare", *runs, "--work-dir", str(tmp_path / "both")]) == 0, capsys.readouterr().err
    numbers = json.loads((tmp_path / "both" / "metrics.json").read_text())
    assert numbers["_$run$"]["mIoU"] == 1.0
    assert "h\\xfc $x$" in (tmp_path / "both" / "report" / "index.html").read_text(encoding="utf-8")


def test_a_check_of_data_with_nasty_names_writes_all(nasty_root: Path, tmp_path: Path) -> None:
    options = load_config(SegmentationConfig, None, [f"data.root={nasty_root}"]).data
    classes = read_classes(options)
    split = check_split("validation", options, len(classes), True)
    metrics_path, page_path = write_data_report([split], classes, options, tmp_path / "check")
    counts = json.loads(metrics_path.read_text(encoding="ascii"))["validation"]["classes"]
    assert list(counts) == classes
    assert sum(one["pixels"] for one in counts.values()) == int(np.sum(split.pixels))
    assert "h\\xfc $x$" in page_path.read_text(encoding="utf-8")
