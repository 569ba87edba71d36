"""What a label map takes in memory, and label maps that were changed at random."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzzing import check_script
from PIL import Image

from convmae.reports.drawing import draw_labels, palette
from convmae.segmentation.checks.splits import check_split
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.label_values import measure
from convmae.segmentation.data.layout import count_values, read_label, read_values

SIDE, MOST = 1500, 16  # pixels, and bytes for each


@pytest.mark.parametrize("task", ["read", "measure", "draw", "check"])
def test_a_label_map_takes_few_bytes_a_pixel(tmp_path: Path, task: str) -> None:
    """Of NumPy's; Pillow's own, four bytes a pixel of RGB, are not traced. Drawing it took 69, counting its labels 9."""
    values = (
        np.random.default_rng(0).integers(0, 4, (SIDE // 50, SIDE // 50)).astype(np.uint8).repeat(50, 0).repeat(50, 1)
    )
    options = SegmentationDataOptions(root=str(tmp_path))
    images, labels = tmp_path / options.train_images, tmp_path / options.train_labels
    for folder in (images, labels):
        folder.mkdir(parents=True)
    Image.fromarray(values).save(labels / "a.png")
    picture = Image.new("RGB", (SIDE, SIDE))
    picture.save(images / "a.jpg")
    tasks: dict[str, Callable[[], object]] = {
        "read": lambda: read_label(labels / "a.png", 4, reduce_zero_label=False),
        "measure": lambda: measure(*read_values(labels / "a.png")),
        "draw": lambda: draw_labels(picture, values, palette(4)),
        "check": lambda: check_split("training", options, 4, None),
    }
    tasks[task]()  # what is made once
    tracemalloc.start()
    try:
        tasks[task]()
        assert tracemalloc.get_traced_memory()[1] < MOST / 2 * SIDE**2
    finally:
        tracemalloc.stop()


def test_labels_are_counted_as_numpy_does() -> None:
    values = np.random.default_rng(0).integers(0, 256, (37, 41)).astype(np.uint8)
    assert count_values(values).tolist() == np.bincount(values.ravel(), minlength=256).tolist()
    assert count_values(values[:0]).tolist() == [0] * 256


def test_label_maps_changed_at_random_are_read_or_refused() -> None:
    """More of them by the script itself."""
    check_script(Path(__file__).with_name("fuzz_label_maps.py"), 200, 0, 1500)
