"""The report of a pretraining run: which pictures stand in it, by what the model is and predicts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.engine.run_files import listed, start_list
from convmae.pretraining import MAE, ConvMAE, FastConvMAE, MaskedAutoencoder
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.evaluation.report import SHOWN, write_report

DIMS = {"embed_dims": (8, 8, 16), "depths": (1, 1, 2), "num_heads": 2}
PLAIN = {"embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("fastconvmae", {"Reconstructions": SHOWN, "Groups": 5, "Features": 1}),
        ("convmae", {"Reconstructions": SHOWN, "Features": 1}),
        ("mae", {"Reconstructions": SHOWN, "Features": 1}),
        ("no pixels", {"Features": 1}),
    ],
)
def test_the_report_shows_what_the_model_can_show(kind: str, expected: dict[str, int], tmp_path: Path) -> None:
    start_list(tmp_path)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(SHOWN + 2)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(path)
    rows = [{"step": step, "loss": 1.0, "lr": 0.1, "seconds_per_step": time} for step, time in ((10, 0.1), (30, 0.2))]
    (tmp_path / "scalars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    decoder = {"decoder_dim": 32, "decoder_depth": 1}
    model: MaskedAutoencoder
    if kind == "mae":
        model = MAE(PLAIN, 32, **decoder)
    else:
        model = (FastConvMAE if kind == "fastconvmae" else ConvMAE)(DIMS, 32, **decoder)
    if kind == "no pixels":
        model.remove_pixel_branch(1)
    config = PretrainingConfig()
    config.model.img_size = 32
    page, written = write_report(model, config, paths, torch.device("cpu"), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["seconds"] == pytest.approx(5.0)  # whoever started it
    shown = {block["title"]: len(block["content"]) for block in page._blocks if block["kind"] == "pictures"}
    assert shown == expected
    assert all(path.is_file() for path in written)
    assert (tmp_path / "reconstructions.png" in written) == (kind != "no pixels")
    assert set(written) <= set(listed(tmp_path) or ())  # so that --overwrite removes them
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    stages = 1 if kind == "mae" else 3
    panels = 4 * expected.get("Reconstructions", 0) + 2 * expected.get("Groups", 0) + 1 + stages  # and features' input
    assert len(re.findall(r'src="data:image', html)) == panels
    titles = re.findall(r'<span class="panel-title">([^<]*)</span>', html)
    assert titles[-1 - stages :] == ["input", *(["last block"] if kind == "mae" else ["E1", "E2", "E3"])]
    if kind != "no pixels":
        last = "put together" if kind == "fastconvmae" else "prediction of every patch"
        assert titles[:4] == ["input", "visible", "reconstruction", last]
        assert "Reconstruction: visible patches, and predictions of the others" in html
    assert "of the variance." in html
