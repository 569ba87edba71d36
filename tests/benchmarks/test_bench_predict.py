"""The comparison with torchvision runs on files, and both sides draw as many masks."""

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convmae.benchmarks import bench_predict, options


def test_each_model_is_timed_on_the_same_pictures(tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    parser = argparse.ArgumentParser()
    options.predict(parser)
    parser.add_argument("--repeats", type=int, default=2)
    rows = bench_predict.run(
        parser.parse_args([str(tmp_path), "--sizes", "tiny", "--img-size", "64", "--device", "cpu"])
    )
    assert [row["model"] for row in rows] == ["torchvision", "tiny, square", "tiny, picture alone"]
    assert rows[0]["over torchvision"] == 1.0
    for row in rows:
        assert row["pictures a second"] > 0
        assert row["over torchvision"] == pytest.approx(row["pictures a second"] / rows[0]["pictures a second"])
