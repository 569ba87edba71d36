"""In every task pictures are read as a run's options say, and what is doubtful of their values is said when it starts."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.backbones import ConvViT
from convmae.classification.config import FolderOptions, ProbeConfig
from convmae.classification.data.dataset import EvalSet, read_splits
from convmae.classification.probes.features import probed_encoder, read_features
from convmae.detection.checks.data_check import check_data
from convmae.detection.checks.preflight import read_splits as read_detection_splits
from convmae.detection.config import DetectionConfig, DetectionDataOptions
from convmae.detection.data.dataset import EvalSet as DetectionSet
from convmae.detection.evaluation.rated_pictures import read_picture
from convmae.engine.commands.given_pictures import kept_reading, read_pictures
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.files import save_weights
from convmae.engine.pictures.images import read_image
from convmae.engine.pictures.reading import MAX_PIXELS
from convmae.pretraining.config import PretrainingConfig, PretrainingDataOptions
from convmae.pretraining.data.dataset import PictureFolder
from convmae.pretraining.evaluation.reconstructions import load_picture
from convmae.segmentation.checks.splits import check_split
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.dataset import SegmentationDataset

SIDE, VALUE = 64, 2048
RANGE = [0.0, 4095.0]
GREY = 128  # 2048 of 4095, in bytes
REMARK = "use less than a tenth of their range"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of 12 bits, mostly of one value, in the layouts of all tasks."""
    values = np.full((SIDE, SIDE), VALUE, np.uint16)
    values[:8] = np.linspace(0, 4095, SIDE)
    for place in ("images/training", "images/validation", "annotations/training", "annotations/validation"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(2):
            pixels = values if place.startswith("images") else np.full((SIDE, SIDE), number, np.uint8)
            pixels = pixels.copy()
            pixels[0, :2] = number, 0  # no two files are alike
            Image.fromarray(pixels).save(tmp_path / place / f"{number}.png")
    (tmp_path / "classes.txt").write_text("ground\nthing\n")
    for split, shift in (("train", 0), ("val", 7)):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / "classes" / split / name).mkdir(parents=True)
            pixels = values.copy()
            pixels[0, 0] = number + shift
            Image.fromarray(pixels).save(tmp_path / "classes" / split / name / "a.tif")
    box = {"image_id": 1, "category_id": 1, "bbox": [8, 8, 20, 20], "area": 400, "iscrowd": 0}
    content = {
        "images": [
            {"id": number + 1, "file_name": f"{number}.png", "width": SIDE, "height": SIDE} for number in (0, 1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": number, **box, "image_id": number} for number in (1, 2)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return tmp_path


def detection_options(folder: Path, **values: object) -> DetectionDataOptions:
    paths = {"train_images": "images/training", "val_images": "images/validation"}
    files = {"train_annotations": "coco.json", "val_annotations": "coco.json"}
    return DetectionDataOptions(root=str(folder), img_size=SIDE, **paths, **files, **values)  # type: ignore[arg-type]


def test_pretraining(folder: Path) -> None:
    root = str(folder / "images")
    plain, ours = (PictureFolder(PretrainingDataOptions(root=root, range=value), SIDE) for value in (None, RANGE))
    assert [remark.kind for remark in plain.remarks if REMARK in remark.kind]
    assert not ours.remarks
    assert ours[1]["images"].median() == GREY
    assert plain[1]["images"].median() == 8
    found = load_picture(ours.paths[0], SIDE, reading=ours.reading)
    assert torch.allclose(found[:, 40, 40], torch.tensor([0.0741, 0.2052, 0.4265]), atol=1e-3)  # ImageNet's statistics


def test_classification(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = FolderOptions(root=str(folder / "classes"))
    for part in read_splits(options):
        assert any(REMARK in remark.kind for remark in part.remarks)
    assert REMARK in caplog.text
    options.range = RANGE
    train, val = read_splits(options)
    assert not train.remarks
    assert EvalSet(val, SIDE, 1.0)[0]["images"].median() == GREY

    config = ProbeConfig(data=options)
    torch.save({"model": ConvViT("tiny", num_classes=0).state_dict()}, tmp_path / "encoder.pth")
    config.model.init, config.model.features = str(tmp_path / "encoder.pth"), str(tmp_path / "features")
    config.model.img_size, config.data.workers, config.runtime.device = 32, 0, "cpu"
    encoder = probed_encoder(config.model.init)
    ours = read_features(config, val, encoder)
    options.range = None
    plain = read_features(config, read_splits(options)[1], encoder)
    assert not torch.equal(ours.values, plain.values)  # none were taken from the other's file
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_detection(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_detection_splits(detection_options(folder), masks=False)
    assert caplog.text.count(REMARK) == 2
    caplog.clear()
    train, val = read_detection_splits(detection_options(folder, range=RANGE), masks=False)
    assert REMARK not in caplog.text
    for data in (train, val):
        assert DetectionSet(data, SIDE)[0]["images"][0].median() == GREY
    assert (np.asarray(read_picture(train, train.images[0])) == GREY).all(axis=-1).mean() > 0.3
    config = DetectionConfig(data=detection_options(folder))
    config.model.masks = False
    assert all(any(REMARK in fault.kind for fault in split.faults) for split in check_data(config))


def test_segmentation(folder: Path) -> None:
    def options(**values: object) -> SegmentationDataOptions:
        return SegmentationDataOptions(root=str(folder), reduce_zero_label=False, **values)  # type: ignore[arg-type]

    assert any(REMARK in fault.kind for fault in check_split("training", options(), 2, 10).faults)
    found = check_split("training", options(range=RANGE), 2, 10)
    assert not [fault for fault in found.faults if "range" in fault.kind]
    (item, _) = SegmentationDataset(found.pairs, ["ground", "thing"], options(range=RANGE), train=False)
    assert item["inputs"].median() == GREY
    limited = check_split("validation", options(max_pixels=SIDE * SIDE - 1), 2, 10)
    assert {fault.kind for fault in limited.faults} >= {"pictures of too many pixels"}


def test_given_pictures_are_read_as_the_run_did(folder: Path, tmp_path: Path) -> None:
    encoder, tree = {"weight": torch.zeros(1)}, "data:\n  range: [0.0, 4095.0]\n  batch_size: 2\n"
    weights = save_weights(encoder, tmp_path / "ours.pth", tree)
    published = save_weights(encoder, tmp_path / "published.pth")
    reading = kept_reading(weights)
    assert (reading.range, reading.max_pixels) == ((0, 4095), MAX_PIXELS)
    assert kept_reading(published).range is None
    assert kept_reading(weights, ["data.range=[0,2048]", "data.max_pixels=9"]).range == (0, 2048)
    with pytest.raises(UserError, match=r"data\.batch_size"):
        kept_reading(weights, ["data.batch_size=4"])
    path = folder / "images/training/0.png"
    ((_, _, image),) = read_pictures({path: Path("0.png")}, partial(read_image, reading=reading))
    assert image.getpixel((5, 40)) == (GREY,) * 3


def test_a_recipe_takes_both_options_and_checks_them() -> None:
    config = load_config(PretrainingConfig, None, ["data.range=[-1024,3071]", "data.max_pixels=500000000"])
    assert (config.data.reading().range, config.data.reading().max_pixels) == ((-1024, 3071), 500_000_000)
    assert load_config(PretrainingConfig, None, ["data.max_pixels=10000000000"]).data.reading().max_pixels == 10**10
    for wrong in ("data.range=[0]", "data.range=[0,.inf]", "data.range=[a,b]", "data.max_pixels=0"):
        with pytest.raises(UserError, match=wrong.partition("=")[0]):
            load_config(PretrainingConfig, None, [wrong])
