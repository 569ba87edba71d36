"""Two runs side by side: equal data only, differences that are those of the detections, and mistakes in one message."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData, read_coco
from convmae.detection.data.coco_records import to_rle
from convmae.detection.evaluation.coco_metric import CocoMetric, write_results
from convmae.engine.config import load_config, save_config
from convmae.reports.page import write_metrics
from convmae.tools.test_det import main


def write_run(split: Path, name: str, found: Callable[[CocoData], list[dict[str, Any]]], *options: str) -> Path:
    """Writes a work directory as a test leaves it, with given detections."""
    data = read_coco(split / "instances.json", split / "images")
    metric, predictions = CocoMetric(data), found(data)
    paths = ["data.val_images=images", "data.val_annotations=instances.json"]
    config = load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", [f"data.root={split}", *paths, *options])
    write_metrics(split / name / "metrics.json", metric.compute_metrics(predictions))
    write_results(split / name / "detections.json", predictions, data)
    save_config(config, split / name / "config.yaml")
    return split / name


def detections(data: CocoData, which: slice) -> list[dict[str, Any]]:
    """Some objects of each picture, found exactly."""
    predictions = []
    for image in data.images:
        objects = data.training_objects(image)[which]
        rles = [to_rle(one.segmentation, image.height, image.width) for one in objects if one.segmentation]
        predictions.append(
            {
                "image_id": image.id,
                "boxes": torch.tensor([one.box for one in objects]).view(-1, 4),
                "scores": torch.full((len(objects),), 0.75),
                "labels": torch.tensor([one.label for one in objects], dtype=torch.int64),
                "masks": [{**rle, "counts": mask_text(rle)} for rle in rles],
            }
        )
    return predictions


def mask_text(rle: dict[str, Any]) -> str:
    return rle["counts"] if isinstance(rle["counts"], str) else rle["counts"].decode()


@pytest.fixture
def runs(split: Path) -> tuple[Path, Path]:
    """One that finds the discs, and one that finds all."""
    first = write_run(split, "discs", lambda data: detections(data, slice(1)), "optim.lr=0.5")
    return first, write_run(split, "all", lambda data: detections(data, slice(None)), "optim.lr=0.25")


def test_the_page_shows_what_the_second_run_gained(runs: tuple[Path, Path], split: Path) -> None:
    assert main(["--compare", *map(str, runs), "--work-dir", str(split / "both")]) == 0
    page = (split / "both" / "report" / "index.html").read_text()
    assert "+50.0" in page  # bars are not found by the first: AP 0.5
    assert "from 50.0 to 100.0" in page
    assert "Better in all" in page
    assert "Better in discs" not in page
    assert "2 right, 0 missed, 0 wrong" in page
    assert "optim.lr" in page
    numbers = json.loads((split / "both" / "metrics.json").read_text())
    assert [numbers[name]["bbox_mAP"] for name in ("discs", "all")] == [0.5, 1.0]
    assert numbers["all"]["segm_mAP"] == 1.0
    assert numbers["all"]["gain_intervals"] == {}  # the same gain whichever pictures are drawn
    assert "bootstrap" not in page


def test_a_gain_that_hangs_on_the_pictures_has_an_interval(runs: tuple[Path, Path], split: Path) -> None:
    def only_some(data: CocoData) -> list[dict[str, Any]]:
        return [*detections(data, slice(0))[:1], *detections(data, slice(None))[1:]]

    some = write_run(split, "some", only_some)
    assert main(["--compare", str(some), str(runs[1]), "--work-dir", str(split / "both")]) == 0
    numbers = json.loads((split / "both" / "metrics.json").read_text())
    low, high = numbers["all"]["gain_intervals"]["bbox_mAP"]
    gain = numbers["all"]["bbox_mAP"] - numbers["some"]["bbox_mAP"]
    assert -1 <= low < gain < high <= 1
    page = (split / "both" / "report" / "index.html").read_text()
    assert f"95 %: {100 * low:+.1f} to {100 * high:+.1f}" in page.replace("\u00a0", " ")
    assert "bootstrap over pictures" in page


def test_runs_that_cannot_be_compared_are_refused(
    runs: tuple[Path, Path],
    split: Path,
    change: Callable[[Callable[[dict], Any]], Path],
    capsys: pytest.CaptureFixture,
) -> None:
    def refused(*folders: Path) -> str:
        assert main(["--compare", *map(str, folders), "--work-dir", str(split / "both"), "--overwrite"]) == 2
        return capsys.readouterr().err

    first, second = runs
    assert "twice" in refused(first, first)
    assert "There is no folder" in refused(first, split / "gone")
    assert "holds no metrics.json" in refused(first, split / "images")

    edited = json.loads((second / "metrics.json").read_text()) | {"bbox_mAP": 0.25}
    (second / "metrics.json").write_text(json.dumps(edited))
    assert "metrics.json says box AP 0.25" in refused(first, second)

    shutil.copy(split / "instances.json", split / "other.json")
    change(lambda content: content["annotations"].pop(0))
    config = (second / "config.yaml").read_text().replace("instances.json", "other.json")
    (second / "config.yaml").write_text(config)
    error = refused(first, second)
    assert "different data" in error
    assert error.count("\n") == 1

    (first / "detections.json").write_text("[1]")
    (second / "config.yaml").write_text((first / "config.yaml").read_text())
    assert "doesn't hold detections" in refused(first, second)


def test_three_runs_stand_on_one_page(runs: tuple[Path, Path], split: Path) -> None:
    third = write_run(split, "bars", lambda data: detections(data, slice(1, None)), "optim.lr=0.125")
    assert main(["--compare", *map(str, runs), str(third), "--work-dir", str(split / "both")]) == 0
    page = (split / "both" / "report" / "index.html").read_text()
    assert "discs, all and bars" in page
    assert "all less discs" in page
    assert page.count('class="threshold"') == 3
    numbers = json.loads((split / "both" / "metrics.json").read_text())
    assert [numbers[name]["bbox_mAP"] for name in ("discs", "all", "bars")] == [0.5, 1.0, 0.5]
    assert main(["--compare", str(third), "--work-dir", str(split / "alone")]) == 2


def test_weights_or_two_runs_are_needed(runs: tuple[Path, Path]) -> None:
    for argv in ([], [str(runs[0] / "model.pth"), "--compare", *map(str, runs)]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2
