"""Pretraining samples against torchvision's own augmentation with the same draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Remark
from convmae.engine.pictures.images import to_tensor
from convmae.pretraining.config import PretrainingDataOptions
from convmae.pretraining.data.dataset import PictureFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture with detail, and large enough that a crop of it is decoded at half its size."""
    rng = np.random.default_rng(0)
    grid = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    grid.resize((320, 240), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    return tmp_path


@pytest.mark.parametrize("img_size", [160, 48])
@pytest.mark.parametrize("flip", [True, False])
def test_a_sample_is_torchvisions_random_crop_with_the_same_draws(folder: Path, img_size: int, flip: bool) -> None:
    pictures = PictureFolder(PretrainingDataOptions(root=str(folder), flip=flip), img_size)
    plain = v2.Compose(
        [
            v2.RandomResizedCrop(img_size, (0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(0.5 if flip else 0.0),
        ]
    )
    with Image.open(folder / "a.jpg") as image:
        for seed in range(6):
            torch.manual_seed(seed)
            sample = pictures[0]
            torch.manual_seed(seed)
            expected, noise = to_tensor(plain(image)), torch.rand(pictures.tokens)
            assert sample["images"].dtype == torch.uint8
            assert (sample["images"].float() - expected.float()).abs().mean() < 2
            assert torch.equal(sample["noise"], noise)


def write(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (40, 30), 90 if mode == "L" else None).save(path)


def remarks(root: Path) -> dict[str, Remark]:
    return {remark.kind: remark for remark in PictureFolder(PretrainingDataOptions(root=str(root)), 32).remarks}


def test_every_picture_counts_once_and_what_is_passed_over_is_said(folder: Path) -> None:
    write(folder / "real" / "b.png")
    (folder / "latest").symlink_to("real")
    (folder / "notes.txt").touch()
    (folder / "c.heic").touch()
    pictures = PictureFolder(PretrainingDataOptions(root=str(folder)), 32)
    assert [path.relative_to(folder).as_posix() for path in pictures.paths] == ["a.jpg", "real/b.png"]
    said = remarks(folder)
    assert {remark.effect for remark in said.values()} == {Effect.DOUBTFUL}
    assert (
        "2 files of other endings passed over: 1 .heic, 1 .txt"
        in said["folders with files that may be pictures"].first[0]
    )
    assert said["folders with pictures linked twice"].count == 1


def test_the_run_s_own_drawing_is_no_picture_when_it_goes_on(folder: Path) -> None:
    before = PictureFolder(PretrainingDataOptions(root=str(folder)), 32).paths
    for name in ("config.yaml", "scalars.jsonl"):
        (folder / "run").mkdir(exist_ok=True)
        (folder / "run" / name).touch()
    write(folder / "run" / "reconstructions.png")
    assert PictureFolder(PretrainingDataOptions(root=str(folder)), 32).paths == before


def test_a_link_that_leads_nowhere_stops_before_the_first_step(folder: Path) -> None:
    (folder / "b.jpg").symlink_to("gone.jpg")
    with pytest.raises(UserError, match=r"b\.jpg is a link to gone\.jpg"):
        PictureFolder(PretrainingDataOptions(root=str(folder)), 32)


def test_label_maps_among_the_pictures_are_doubted(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / "images" / "training" / f"{number}.jpg")
        write(tmp_path / "annotations" / "training" / f"{number}.png", "P" if number % 2 else "L")
    said = remarks(tmp_path)
    assert said.keys() == {"folders that may hold label maps"}
    assert "annotations/training holds 5 files of one channel" in said["folders that may hold label maps"].first[0]


@pytest.mark.parametrize(
    ("one", "other"), [("L", "L"), ("RGB", "RGB"), ("L", "RGB")], ids=["all grey", "all colour", "names of their own"]
)
def test_grey_pictures_are_no_label_maps(tmp_path: Path, one: str, other: str) -> None:
    for number in range(5):
        write(tmp_path / "a" / f"{number}.png", one)
        write(tmp_path / "b" / f"{number + (5 if one != other else 0)}.png", other)
    assert remarks(tmp_path) == {}
