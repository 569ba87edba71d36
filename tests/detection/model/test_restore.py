"""Detections become the picture's in threads beside the model: the same, in order, few at a time, errors where they count."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_detector import SIZE, small_config

from convmae.benchmarks.counting.host_waits import host_waits
from convmae.detection.data.coco import CocoData, read_coco
from convmae.detection.data.dataset import EvalSet, collate_test
from convmae.detection.evaluation.coco_metric import CocoMetric
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.restore import restore


@pytest.fixture
def data(split: Path) -> CocoData:
    return read_coco(split / "instances.json", split / "images")


@pytest.fixture
def model(data: CocoData) -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel(small_config(score_threshold=0.0), data.categories).eval()


def nothing(image_id: int) -> dict[str, Any]:
    empty = torch.zeros(0)
    return {"image_id": image_id, "boxes": empty.view(0, 4), "scores": empty, "labels": empty.long(), "masks": []}


@torch.no_grad()
def test_deferred_detections_are_the_predicted_ones_from_any_thread(model: DetectionModel, data: CocoData) -> None:
    batch = collate_test([EvalSet(data, SIZE)[number] for number in range(4)])
    expected = model(**batch, mode="predict")
    deferred = model.val_step(batch)
    found: list[dict[str, Any]] = [{} for _ in deferred]
    threads = [
        threading.Thread(target=lambda n=number, call=call: found.__setitem__(n, call()))
        for number, call in enumerate(deferred)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, wanted in zip(found, expected, strict=True):
        assert one["image_id"] == wanted["image_id"]
        assert one["masks"] == wanted["masks"]
        assert len(one["masks"]) > 5
        for name in ("boxes", "scores", "labels"):
            assert torch.equal(one[name], wanted[name])


@torch.no_grad()
def test_masks_are_pasted_in_fp32_whatever_the_models_precision(model: DetectionModel, data: CocoData) -> None:
    batch = collate_test([EvalSet(data, SIZE)[0]])
    found, _ = model.model(torch.zeros(1, 3, SIZE, SIZE), sizes=[batch["samples"][0].geometry.content])
    expected = restore(found[0], batch["samples"][0])
    with torch.autocast("cpu", torch.bfloat16):
        assert restore(found[0], batch["samples"][0])["masks"] == expected["masks"]


@torch.no_grad()
def test_a_thread_waits_for_the_boxes_and_for_the_masks_edges(
    model: DetectionModel, data: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = collate_test([EvalSet(data, SIZE)[0]])
    (found,), _ = model.model(torch.zeros(1, 3, SIZE, SIZE), sizes=[batch["samples"][0].geometry.content])
    expected, streams = restore(found, batch["samples"][0]), []
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=lambda: streams.append(1))
    )
    results: list[dict[str, Any]] = []
    waits = host_waits(lambda: results.append(restore(found, batch["samples"][0])), found)
    assert streams == [1, 1]  # once a call
    assert [wait.op for wait in waits] == ["to", "aten::nonzero", "cpu"]
    assert results[0]["masks"] == expected["masks"]


def test_results_come_in_order_and_not_from_the_main_thread(data: CocoData) -> None:
    metric, seen = CocoMetric(data), []

    def slow(image_id: int, seconds: float) -> dict[str, Any]:
        time.sleep(seconds)
        seen.append((image_id, threading.current_thread() is threading.main_thread()))
        return nothing(image_id)

    ids = [image.id for image in data.images]
    calls = [partial(slow, image_id, seconds) for image_id, seconds in zip(ids, (0.2, 0.0, 0.0, 0.0), strict=True)]
    metric.process({}, calls)
    metric.evaluate(len(ids))
    assert [one["image_id"] for one in metric.predictions] == ids
    assert [image_id for image_id, _ in seen] != ids
    assert not any(main for _, main in seen)
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())


def test_the_model_is_never_further_ahead_than_allowed(data: CocoData) -> None:
    metric, gate, started = CocoMetric(data), threading.Event(), threading.Event()

    def held(image_id: int) -> dict[str, Any]:
        started.set()
        assert gate.wait(30)
        return nothing(image_id)

    process = threading.Thread(target=lambda: metric.process({}, [partial(held, 10)] * (metric.AHEAD + 5)))
    process.start()
    assert started.wait(30)
    time.sleep(0.2)
    assert len(metric.results) == metric.AHEAD + 1
    gate.set()
    process.join(30)
    assert len(metric.results) == metric.AHEAD + 5


@pytest.mark.parametrize("last", [False, True])
def test_what_goes_wrong_in_a_thread_is_raised_in_the_main_one(data: CocoData, last: bool) -> None:
    metric = CocoMetric(data)

    def broken() -> dict[str, Any]:
        raise MemoryError("of a thread")

    good: Callable[[], dict[str, Any]] = partial(nothing, 10)
    if last:
        metric.process({}, [good, broken])
        with pytest.raises(MemoryError, match="of a thread"):
            metric.evaluate(2)
    else:
        with pytest.raises(MemoryError, match="of a thread"):
            metric.process({}, [broken, *[good] * metric.AHEAD])
