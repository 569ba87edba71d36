"""Threads that look through pictures decode large ones one after the other."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from convmae.detection.checks import preflight as detection_check
from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import ImageRecord
from convmae.engine.pictures import images, limits, picture_check
from convmae.engine.pictures.images import look_at
from convmae.engine.pictures.picture_check import PictureCheck, read_all
from convmae.segmentation.checks import splits as segmentation_check
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data import rare_classes
from convmae.segmentation.data.layout import Pair

SIZE, COUNT = (32, 24), 8
NAMES = [f"{number}.png" for number in range(COUNT)]


def of_plain_pictures(root: Path) -> None:
    read_all(PictureCheck("training", root, paths=[root / name for name in NAMES]))


def of_other_formats(root: Path) -> None:
    for name in NAMES:
        (root / name).rename(root / f"{name}.bmp")
        Image.new("RGB", SIZE).save(root / f"{name}.bmp")
    with ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(look_at, [root / f"{name}.bmp" for name in NAMES]))


def of_a_detector(root: Path) -> None:
    records = [ImageRecord(number, name, *SIZE) for number, name in enumerate(NAMES)]
    data = CocoData(root / "a.json", root, [], records, {})
    with ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(lambda record: detection_check.decode_picture(data, record, SIZE), records))


def make_labels(root: Path) -> None:
    for kind in ("images", "annotations"):
        (root / kind / "training").mkdir(parents=True)
        for name in NAMES:
            mode = "L" if kind == "annotations" else "RGB"
            Image.new(mode, SIZE).save(root / kind / "training" / name)


def of_label_maps(root: Path) -> None:
    make_labels(root)
    assert (
        len(segmentation_check.check_split("training", SegmentationDataOptions(root=str(root)), 3, None).good) == COUNT
    )


def of_rare_classes(root: Path) -> None:
    make_labels(root)
    folder = root / "annotations" / "training"
    rare_classes.find_classes([Pair(folder / name, folder / name) for name in NAMES], 3, False)


WAYS: dict[Callable[[Path], None], tuple[ModuleType, str]] = {
    of_plain_pictures: (picture_check, "read_image"),
    of_other_formats: (images, "read_image"),
    of_a_detector: (detection_check, "read_image"),
    of_label_maps: (segmentation_check, "read_values"),
    of_rare_classes: (rare_classes, "read_label"),
}


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_large_pictures_are_decoded_one_after_the_other(
    tmp_path: Path, way: Callable[[Path], None], large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(tmp_path / name)
    module, reader = WAYS[way]
    read, inside, most = getattr(module, reader), [], []

    def watched(*given):
        inside.append(threading.get_ident())
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return read(*given)

    monkeypatch.setattr(module, reader, watched)
    monkeypatch.setattr(picture_check, "_CHUNK", 1)
    monkeypatch.setattr(limits, "LARGE", SIZE[0] * SIZE[1] - large)
    way(tmp_path)
    assert len(most) == COUNT
    assert (max(most) == 1) == large
