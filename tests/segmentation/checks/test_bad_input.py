"""Whatever lies in a data folder trains and is labelled, or is refused by name before the first step, by every tool alike."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from convmae.engine.config import save_config
from convmae.engine.training.scalars import read_scalars
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.model.upernet import build_model
from convmae.tools import check_data, test_seg, train_seg

MakeConfig = Callable[[], SegmentationConfig]


def save_label(array: np.ndarray) -> Callable[[Path], object]:
    """An edit of one label map."""
    return lambda root: Image.fromarray(array).save(root / LABEL)


def cut_off(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-40])


def ignore_all(root: Path) -> None:
    for path in (root / LABEL).parent.iterdir():
        Image.fromarray(np.zeros((40, 48), np.uint8)).save(path)


def empty(root: Path) -> None:
    for path in (root / PICTURE).parent.iterdir():
        path.unlink()


PICTURE, LABEL = "images/training/picture_1.jpg", "annotations/training/picture_1.png"
# The edit of the data, what is said, and the kind of fault.
REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "RGB": (
        save_label(np.ones((40, 48, 3), np.uint8)),
        "picture_1.png is a colour label map (mode RGB)",
        "colour label maps",
    ),
    "16 bits": (
        save_label(np.ones((40, 48), np.uint16)),
        "picture_1.png is a 16- or 32-bit label map",
        "16- or 32-bit label maps",
    ),
    "one pixel wider": (
        save_label(np.ones((40, 49), np.uint8)),
        "picture_1.png is 49 x 40 pixels; expected 48 x 40",
        "label maps of another size than their picture",
    ),
    "one pixel lower": (
        save_label(np.ones((39, 48), np.uint8)),
        "picture_1.png is 48 x 39 pixels; expected 48 x 40",
        "label maps of another size than their picture",
    ),
    "value": (
        save_label(np.full((40, 48), 4, np.uint8)),
        "picture_1.png holds label 4; expected 1..3",
        "labels beyond the class list",
    ),
    "no label map": (
        lambda root: (root / LABEL).unlink(),
        "picture_1.jpg has no label map",
        "pictures without a label map",
    ),
    "no picture": (
        lambda root: (root / PICTURE).unlink(),
        "picture_1.png has no picture",
        "label maps without a picture",
    ),
    "two of a name": (
        lambda root: Image.new("RGB", (48, 40)).save((root / PICTURE).with_suffix(".bmp")),
        "differ in suffix only",
        "files that differ in suffix only",
    ),
    "picture cut off": (cut_off(PICTURE), "picture_1.jpg can't be read", "unreadable pictures"),
    "label map cut off": (cut_off(LABEL), "picture_1.png can't be read", "unreadable label maps"),
    "all ignored": (ignore_all, "every pixel of 6 label maps is ignored", "splits without a labelled pixel"),
    "empty folder": (empty, "images/training holds no pictures", "folders that can't be used"),
}


@pytest.fixture
def recipe(tiny_config: MakeConfig, tmp_path: Path) -> Path:
    save_config(tiny_config(), tmp_path / "recipe.yaml")
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize("case", REFUSED)
def test_what_training_refuses_it_names_and_the_check_finds_too(
    case: str, recipe: Path, ade_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    edit, said, kind = REFUSED[case]
    edit(ade_root)
    assert train_seg.main(["--config", str(recipe), "--work-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert str(ade_root) in error
    assert not list((tmp_path / "run").glob("*.pth"))
    assert check_data.main(["seg", "--config", str(recipe), "--work-dir", str(tmp_path / "check")]) == 1
    faults = json.loads((tmp_path / "check/metrics.json").read_text())["training"]["faults"]
    stopping = [fault for fault in faults if fault["effect"] == "stops training"]
    assert [fault["message"] for fault in stopping] == [error.removeprefix("error: ").strip()]
    assert kind in stopping[0]["kind"]


def test_odd_pictures_train_and_are_labelled(
    recipe: Path, ade_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sizes = {"strip": (1, 700), "pole": (700, 1), "dot": (1, 1), "small": (8, 9), "ignored": (40, 48)}
    for split in ("training", "validation"):
        for name, size in sizes.items():
            label = np.full(size, 0 if name == "ignored" else 2, np.uint8)
            Image.fromarray(label).save(ade_root / "annotations" / split / f"{name}.png")
            Image.fromarray(label * 60).save(ade_root / "images" / split / f"{name}.png")
        path = ade_root / "annotations" / split / "picture_0.png"
        palette = Image.open(path).convert("P")
        palette.putdata(np.array(Image.open(path)).ravel().tolist())
        palette.save(path)
        assert Image.open(path).mode == "P"
    common = ["--config", str(recipe), "--cfg-options", "schedule.steps=6", "runtime.log_every=1"]
    assert train_seg.main([*common, "--work-dir", str(tmp_path / "run")]) == 0
    losses = [row["loss"] for row in read_scalars(tmp_path / "run") if "loss" in row]
    assert len(losses) == 6  # of two pictures each, so every picture has its turn
    assert np.isfinite(losses).all()
    page = (tmp_path / "run/report/index.html").read_text()
    assert "Remarks on the data" in page
    assert "ignored.png: every pixel is ignored" in page
    whole = ["inference.mode=whole", "--work-dir", str(tmp_path / "whole")]
    assert test_seg.main([str(tmp_path / "run/model.pth"), *common, *whole]) == 0
    assert check_data.main(["seg", "--config", str(recipe), "--work-dir", str(tmp_path / "check")]) == 0
    assert "ignored.png: every pixel is ignored" in capsys.readouterr().out


def test_a_batch_of_ignored_pixels_alone_teaches_nothing_and_breaks_nothing(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config(), 3).train()
    inputs = [torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8) for _ in range(2)]
    labels = torch.full((1, 32, 32), IGNORE)
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=labels.clone()), metainfo={"img_shape": (32, 32)}) for _ in inputs
    ]
    losses = model(**model.data_preprocessor({"inputs": inputs, "data_samples": samples}, training=True), mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.item() == 0
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_class_list_of_another_length_than_the_weights(
    recipe: Path, tiny_config: MakeConfig, ade_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save({"state_dict": build_model(tiny_config(), 5).state_dict()}, tmp_path / "five.pth")
    assert test_seg.main([str(tmp_path / "five.pth"), "--config", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert "five.pth" in error
    assert "does not fit the 3 classes" in error
    assert "decode_head.conv_seg.bias: shape [5] in the file" in error
    narrow = ["--cfg-options", "model.decode_channels=8"]
    torch.save({"state_dict": build_model(tiny_config(), 3).state_dict()}, tmp_path / "three.pth")
    assert test_seg.main([str(tmp_path / "three.pth"), "--config", str(recipe), *narrow]) == 2
    assert "of the model's tensors unfilled (decode_head." in capsys.readouterr().err
    (ade_root / "classes.txt").write_text("1\tsquare\n2\tstripe\n")
    assert train_seg.main(["--config", str(recipe), "--work-dir", str(tmp_path / "run")]) == 2
    assert "holds label 3; expected 1..2 for the 2 classes of the list" in capsys.readouterr().err


def test_where_a_run_is_to_skip_a_broken_picture_it_trains_on_others_and_names_it(
    recipe: Path, ade_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cut_off(PICTURE)(ade_root)
    skip = ["--cfg-options", "data.on_bad_image=skip", "data.bad_share=0.2", "schedule.steps=3"]
    assert check_data.main(["seg", "--config", str(recipe), "--work-dir", str(tmp_path / "check"), *skip]) == 0
    assert "1 unreadable pictures (another picture takes its place)" in capsys.readouterr().out
    assert train_seg.main(["--config", str(recipe), "--work-dir", str(tmp_path / "run"), *skip]) == 0
    told = json.loads((tmp_path / "run/metrics.json").read_text())["unreadable"]
    assert (told["count"], Path(next(iter(told["pictures"]))).name) == (1, "picture_1.jpg")
    (ade_root / "annotations/training/picture_2.png").write_bytes(b"no label map")
    assert train_seg.main(["--config", str(recipe), "--work-dir", str(tmp_path / "other"), *skip]) == 2
    assert "picture_2.png can't be read" in capsys.readouterr().err
