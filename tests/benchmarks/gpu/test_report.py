"""What was measured against its aims, and the page that is drawn of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from convmae.benchmarks import bench_gpu
from convmae.benchmarks.gpu.aims import AIMS, judge
from convmae.benchmarks.gpu.battery import Row
from convmae.benchmarks.gpu.report import draw
from convmae.tools import benchmark

CPU = torch.device("cpu")
HEAD = {"comparison": "gpu", "date": "2026-01-02", "machine": {"device": "a card", "torch": "2"}, "tiny": False}


def test_aims_are_judged_by_the_rows_of_their_item(measured: list[Row]) -> None:
    found = {row["aim"]: row for row in judge(measured, "pretrain", full=True)}
    assert len(found) == 2  # of FastConvMAE there is nothing
    assert (
        found["ConvMAE 224 px, pictures a second"]["measured"],
        found["ConvMAE 224 px, pictures a second"]["met"],
    ) == (4266, True)
    assert found["ConvMAE 224 px, over the dense form"]["measured"] == 2.5
    assert [(row["measured"], row["met"]) for row in judge(measured, "compiled", full=True)] == [(4654, False)]
    assert judge(measured, "pretrain", full=False) == []
    encoder = [
        {"case": "encoder, 1024 px, batch 4", "form": "plain", "mode": "step", "ms": 120.0, "GiB": 36.0},
        {"case": "encoder, 1024 px, batch 4", "form": "shipped", "mode": "step", "ms": 90.0, "GiB": 18.0},
        {"case": "encoder, 1024 px, batch 4", "form": "shipped", "mode": "forward", "ms": 20.0},
        {"case": "Mask R-CNN, 1024 px, batch 4", "form": "shipped", "mode": "step", "a second": 40.0, "GiB": 15.0},
    ]
    judged = judge(encoder, "detection", full=True)
    assert [(row["measured"], row["met"]) for row in judged] == [
        (120 / 90, False),
        (0.5, False),
        (0.025, True),
        (15.0, True),
    ]


def test_a_deviation_out_of_bounds_misses_its_aim_at_any_size() -> None:
    rows = [
        {"case": "published classifier", "what": "logits, fp32", "found": 2e-5, "allowed": 1e-5},
        {"case": "published classifier", "what": "logits, bf16", "found": 5e-3, "allowed": 1e-2},
        {"case": "MLP", "what": "MLP, fp32, output", "found": math.inf, "allowed": 1e-5},
    ]
    assert [(row["measured"], row["met"]) for row in judge(rows, "right", full=False)] == [
        (2, False),
        (0.5, True),
        (math.inf, False),
    ]


def test_the_page_says_what_is_unmeasured(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    counts = {"comparison": "steps", "machine": {"torch": "2"}, "rows": [{"model": "ConvViTDet", "kernels": 1433}]}
    (tmp_path / "steps.json").write_text(json.dumps(counts))
    trial = {**HEAD, "tiny": True, "rows": [{"item": "machine", "case": "ceilings", "launch us": 3.0}]}
    (tmp_path / "trial.json").write_text(json.dumps(trial))
    files = ["--read", str(tmp_path / "steps.json"), str(tmp_path / "trial.json")]
    assert benchmark.main(["gpu", "--report", str(page), *files]) == 0
    text = page.read_text()
    assert "No run on a GPU has been read" in text
    assert text.count("| unmeasured |") == len(AIMS)
    assert "| ConvViTDet | 1433 |" in text
    assert "launch us" not in text  # tiny sizes say nothing


def test_the_shipped_page_is_drawn_from_what_lies_beside_it() -> None:
    docs = Path(__file__).resolve().parents[3] / "docs"
    files = [json.loads(path.read_text()) for path in sorted(docs.glob("gpu*.json"))]
    assert (docs / "gpu.md").read_text() == draw(files, bench_gpu.ITEMS)
