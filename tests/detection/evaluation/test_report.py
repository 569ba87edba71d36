"""Whatever classes and pictures are called, a run's numbers, detections and page are written, and read back."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from names import NASTY
from pycocotools.coco import COCO
from tiny_detector import tiny_config

from convmae.detection.checks.data_check import SplitCheck
from convmae.detection.checks.data_report import write_data_report
from convmae.detection.compare import compare
from convmae.detection.data.coco import CocoData, read_coco
from convmae.detection.evaluation.coco_metric import CocoMetric
from convmae.detection.evaluation.report import write_report
from convmae.engine.config import save_config

PICTURE = os.fsdecode(b"h\xfc $x$\n<b>.png")  # its first letter is Latin-1's


def rename(split: Path, change: Callable[[Callable[[dict], Any]], Path]) -> CocoData:
    """Gives the classes all nasty names, each object another one, and a picture too."""

    def edit(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": number, "name": name} for number, name in enumerate(NASTY, 1)]
        for number, one in enumerate(content["annotations"]):
            one["category_id"] = 1 + 5 * number % len(NASTY)
        (split / "images" / content["images"][0]["file_name"]).rename(split / "images" / PICTURE)
        content["images"][0]["file_name"] = PICTURE

    return read_coco(change(edit), split / "images")


def report(data: CocoData, split: Path, work_dir: Path, right: int = 0) -> dict[str, Any]:
    """Writes a run's report on detections of each object, by the class after its own but on the first ``right`` pictures.

    Returns what metrics.json says.
    """
    metric = CocoMetric(data, masks=False)
    found = [(image.id, data.objects.get(image.id, [])) for image in data.images]
    metric.numbers = metric.compute_metrics(
        [
            {
                "image_id": image,
                "boxes": torch.tensor([one.box for one in objects]).view(-1, 4),
                "scores": torch.full((len(objects),), 0.9),
                "labels": torch.tensor(
                    [(one.label + (place >= right)) % len(data.categories) for one in objects], dtype=torch.int64
                ),
            }
            for place, (image, objects) in enumerate(found)
        ]
    )
    config = tiny_config(split, "model.masks=false")
    work_dir.mkdir()
    save_config(config, work_dir / "config.yaml")
    write_report(metric, config, {"validation": data}, work_dir, 1.0, Path("model.pth"))
    content: dict[str, Any] = json.loads((work_dir / "metrics.json").read_text(encoding="ascii"))
    return content


def test_nasty_names_lose_no_number(split: Path, change: Callable[[Callable[[dict], Any]], Path]) -> None:
    data = rename(split, change)
    metrics = report(data, split, split / "run")
    assert len(metrics["classes"]) == len(NASTY)
    assert set(NASTY) <= metrics["classes"].keys()
    assert "crane (2)" in metrics["classes"]
    rows = json.loads((split / "run" / "detections.json").read_text(encoding="ascii"))["annotations"]
    truth = COCO(split / "instances.json")
    assert len(truth.loadRes(rows).getAnnIds()) == len(truth.getAnnIds())
    page = (split / "run" / "report" / "index.html").read_text(encoding="utf-8")
    for text in ("한국어", "from 5$ to 10_$", "&lt;b&gt;car&lt;/b&gt;", "h\\xfc $x$"):
        assert text in page


def test_runs_with_nasty_names_are_compared(split: Path, change: Callable[[Callable[[dict], Any]], Path]) -> None:
    data = rename(split, change)
    for name in ("step", "_$run$"):
        report(data, split, split / name)
        rows = [{"step": step, "loss": 2.0 * step, "bbox_mAP": 0.1} for step in (1, 2)]
        (split / name / "scalars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (split / "compare").mkdir()
    compare([split / "step", split / "_$run$"], [], split / "compare")
    page = (split / "compare" / "report" / "index.html").read_text(encoding="utf-8")
    said = re.findall(r">([^<>]*)</text>", page)
    assert said.count("_$run$") == 4  # losses and scores, for wide and for narrow windows
    assert said.count("step") == 8  # below these figures, too
    assert {"step, IoU 0.50", "_$run$, IoU 0.75"} <= set(said)


def test_a_check_of_data_with_nasty_names_writes_all(
    split: Path, change: Callable[[Callable[[dict], Any]], Path]
) -> None:
    data = rename(split, change)
    check = SplitCheck("training", data.annotations, data)
    check.good.extend(data.images)
    metrics_path, page_path = write_data_report([check], split / "check")
    metrics = json.loads(metrics_path.read_text(encoding="ascii"))
    assert len(metrics["training"]["classes"]) == len(NASTY)
    assert sum(metrics["training"]["classes"].values()) == sum(data.class_counts())
    assert "h\\xfc $x$" in page_path.read_text(encoding="utf-8")


def test_the_page_says_how_sure_ap_is(split: Path) -> None:
    data = read_coco(split / "instances.json", split / "images")
    metrics = report(data, split, split / "run", right=2)
    low, high = metrics["intervals"]["bbox_mAP"]
    assert 0 <= low < metrics["bbox_mAP"] < high <= 1
    page = (split / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert f"95 %: {100 * low:.1f} to {100 * high:.1f}" in page.replace("\u00a0", " ")
    assert "bootstrap over pictures" in page
