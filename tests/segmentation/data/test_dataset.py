"""Reading ADE20K-layout data: pairs, class lists, label values, crops, and every mistake by name."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch.utils.data import DataLoader

from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.faults import Effect
from convmae.engine.seeding import seed_all
from convmae.segmentation.checks.splits import check_split
from convmae.segmentation.config import SegmentationConfig, SegmentationDataOptions
from convmae.segmentation.data.class_list import read_classes
from convmae.segmentation.data.dataset import SegmentationDataset
from convmae.segmentation.data.found import Found
from convmae.segmentation.data.layout import IGNORE, Pair, find_pairs, read_label

CLASSES = ["square", "stripe", "dot"]


def options(root: Path, **values: object) -> SegmentationDataOptions:
    return SegmentationDataOptions(root=str(root), **{"crop": 32, "scale": [48, 40], **values})  # type: ignore[arg-type]


def training_pairs(root: Path) -> list[Pair]:
    return find_pairs(root / "images/training", root / "annotations/training")


def found_in(root: Path, decode: int = 100) -> Found:
    return check_split("training", options(root), 3, decode)


def problems(root: Path, decode: int = 100) -> list[str]:
    return [str(fault) for fault in found_in(root, decode).faults if fault.effect is Effect.STOPS]


def save_label(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def test_a_label_map_is_turned_as_its_exif_data_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn to the right makes it upright
    Image.fromarray(np.array([[1, 2, 3]], dtype=np.uint8)).save(tmp_path / "label.png", exif=exif)
    assert read_label(tmp_path / "label.png", 3, True).tolist() == [[0], [1], [2]]


def test_label_values(tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    save_label(path, np.array([[0, 1, 3, 255]], dtype=np.uint8))
    assert read_label(path, 3, True).tolist() == [[IGNORE, 0, 2, IGNORE]]
    assert read_label(path, 4, False).tolist() == [[0, 1, 3, IGNORE]]
    with pytest.raises(UserError, match=r"label\.png holds label 3; expected 1\.\.2"):
        read_label(path, 2, True)
    palette = Image.fromarray(np.array([[2, 1]], dtype=np.uint8), mode="L").convert("P")
    palette.putdata([2, 1])
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    palette.save(path)
    assert Image.open(path).mode == "P"
    assert read_label(path, 3, True).tolist() == [[1, 0]]


def test_whole_data_passes_and_is_described(ade_root: Path) -> None:
    found = found_in(ade_root)
    assert not found.faults
    assert found.decoded == 6
    labels = [np.array(Image.open(pair.label)) for pair in found.pairs]
    assert found.pixels.tolist() == [sum(int((label == value).sum()) for label in labels) for value in (1, 2, 3)]
    assert found.ignored == sum(int((label == 0).sum()) for label in labels)
    assert "6 pictures with label maps (all decoded), 48 x 40 pixels" in found.describe()


def test_missing_and_empty_folders(ade_root: Path) -> None:
    with pytest.raises(UserError, match=r"No folder .*nowhere"):
        find_pairs(ade_root / "nowhere", ade_root / "annotations/training")
    (ade_root / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        find_pairs(ade_root / "images/training", ade_root / "empty")


def test_files_without_partner(ade_root: Path) -> None:
    (ade_root / "annotations/training/picture_2.png").unlink()
    (ade_root / "images/training/picture_4.jpg").unlink()
    with pytest.raises(UserError, match=r"picture_2\.jpg has no label map"):
        training_pairs(ade_root)
    first, second = problems(ade_root)
    assert "picture_2.jpg has no label map" in first
    assert "picture_4.png has no picture" in second
    assert len(found_in(ade_root).good) == 4
    assert "pair by name: add or remove the file" in first


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda stem: f"{stem}_mask", "'picture_1' differs from the file 'picture_1_mask' by what marks it"),
        (str.upper, "'picture_1' differs from the file 'PICTURE_1' by upper and lower case"),
        (lambda stem: f"deep/{stem}", "'picture_1' differs from the file 'deep/picture_1' by the folder before it"),
        (lambda stem: f"{stem}.jpg", "'picture_1' differs from the file 'picture_1.jpg' by the ending"),
    ],
)
def test_label_maps_of_other_names_are_told_from_their_pictures(
    ade_root: Path, rename: Callable[[str], str], said: str
) -> None:
    labels = ade_root / "annotations/training"
    for number in (1, 2, 3):
        path = labels / f"{rename(f'picture_{number}')}.png"
        path.parent.mkdir(exist_ok=True)
        (labels / f"picture_{number}.png").rename(path)
    (labels / "picture_4.png").unlink()
    with pytest.raises(UserError, match=r"picture_1\.jpg has no label map; expected .*picture_1\.png") as error:
        training_pairs(ade_root)
    assert f"4 are alone, 3 of them so: {said}" in str(error.value)
    faults = problems(ade_root)
    assert len(faults) == 7
    assert sum("of them so" in fault for fault in faults) == 6


def test_another_unicode_form_of_a_name_is_told(ade_root: Path) -> None:
    name, other = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    (ade_root / "images/training/picture_1.jpg").rename(ade_root / f"images/training/{name}.jpg")
    (ade_root / "annotations/training/picture_1.png").rename(ade_root / f"annotations/training/{other}.png")
    with pytest.raises(UserError, match=r"'été' differs from the file 'e\\u0301te\\u0301' by the Unicode form"):
        training_pairs(ade_root)
    (ade_root / f"images/training/{name}.jpg").rename(ade_root / f"images/training/{other}.jpg")
    assert len(training_pairs(ade_root)) == 6


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((40, 47), dtype=np.uint8), "is 47 x 40 pixels; expected 48 x 40"),
        (np.full((40, 48), 4, dtype=np.uint8), r"holds label 4; expected 1\.\.3"),
        (np.ones((40, 48, 3), dtype=np.uint8), r"is a colour label map \(mode RGB\)"),
        (np.ones((40, 48), dtype=np.uint16), "is a 16- or 32-bit label map"),
    ],
)
def test_wrong_label_maps_are_named_before_training(ade_root: Path, array: np.ndarray, message: str) -> None:
    path = ade_root / "annotations/training/picture_1.png"
    save_label(path, array)
    (problem,) = problems(ade_root)
    assert problem.startswith(str(path))
    assert re.search(message, problem)


@pytest.mark.parametrize("name", ["images/training/picture_1.jpg", "annotations/training/picture_1.png"])
@pytest.mark.parametrize("decode", [0, 100])
def test_truncated_files_are_found_even_where_pixels_are_not_sampled(ade_root: Path, name: str, decode: int) -> None:
    path = ade_root / name
    path.write_bytes(path.read_bytes()[:-30])
    (problem,) = problems(ade_root, decode)
    assert problem.startswith(str(path))


def test_labels_are_looked_at_in_all_maps_even_where_pictures_are_not_decoded(ade_root: Path) -> None:
    save_label(ade_root / "annotations/training/picture_3.png", np.full((40, 48), 4, dtype=np.uint8))
    (problem,) = problems(ade_root, decode=0)
    assert "picture_3.png holds label 4" in problem


def test_a_label_map_that_breaks_during_training_is_named_from_a_loader_process(ade_root: Path) -> None:
    data = SegmentationDataset(training_pairs(ade_root), CLASSES, options(ade_root), train=False)
    save_label(ade_root / "annotations/training/picture_0.png", np.full((40, 48), 4, dtype=np.uint8))
    with pytest.raises(UserError, match=r"picture_0\.png holds label 4"):
        list(DataLoader(data, num_workers=1, collate_fn=list))


def test_labels_that_are_all_ignored(ade_root: Path) -> None:
    for pair in training_pairs(ade_root):
        save_label(pair.label, np.zeros((40, 48), dtype=np.uint8))
    found = found_in(ade_root)
    assert [fault.kind for fault in found.faults] == ["label maps that are all ignored"] * 6
    assert found.ignored == 6 * 40 * 48


def test_a_picture_turned_by_exif_pairs_with_an_upright_label_map(ade_root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(ade_root / "images/training/picture_0.jpg").rotate(90, expand=True)
    image.save(ade_root / "images/training/picture_0.jpg", exif=exif)
    assert not problems(ade_root)
    item = SegmentationDataset(training_pairs(ade_root), CLASSES, options(ade_root), train=False)[0]
    assert item["inputs"].shape[1:] == item["data_samples"].gt_sem_seg.shape == (40, 48)


def test_training_crops_follow_from_the_seed_and_labels_move_with_pixels(ade_root: Path) -> None:
    for pair in training_pairs(ade_root):  # pictures that show their own labels exactly
        label = np.array(Image.open(pair.label))
        pair.image.unlink()
        Image.fromarray(np.repeat(label[..., None] * 60, 3, axis=2)).save(pair.image.with_suffix(".png"))
    given = options(ade_root, ratio_range=[1.0, 1.0], photometric=False, crop=32)
    dataset = SegmentationDataset(training_pairs(ade_root), CLASSES, given, train=True)
    items = []
    for index in (0, 1, 0):
        seed_all(0, index)
        items.append(dataset[index])
        truth = items[-1]["data_samples"].gt_sem_seg.data[0]
        shown = items[-1]["inputs"][0].long() // 60 - 1
        assert truth.shape == (32, 32)
        assert torch.equal(torch.where(shown < 0, IGNORE, shown), truth)
    assert torch.equal(items[0]["inputs"], items[2]["inputs"])
    seed_all(1, 0)
    assert not torch.equal(dataset[0]["inputs"], items[0]["inputs"])


def test_a_crop_one_pixel_wide_is_mirrored(tmp_path: Path) -> None:
    Image.new("RGB", (1, 32), (9, 9, 9)).save(tmp_path / "pole.png")
    Image.new("L", (1, 32), 1).save(tmp_path / "label.png")
    given = options(tmp_path, scale=[32, 32], ratio_range=[1.0, 1.0], flip=1.0, photometric=False)
    pair = Pair(tmp_path / "pole.png", tmp_path / "label.png")
    item = SegmentationDataset([pair], CLASSES, given, train=True)[0]
    assert torch.equal(item["inputs"], torch.full((3, 32, 1), 9, dtype=torch.uint8))
    assert item["data_samples"].gt_sem_seg.data.shape == (1, 32, 1)


def test_validation_leaves_pictures_and_label_maps_as_they_are(ade_root: Path) -> None:
    pairs = training_pairs(ade_root)
    item = SegmentationDataset(pairs, CLASSES, options(ade_root, scale=[400, 80]), train=False)[0]
    assert torch.equal(item["inputs"].permute(1, 2, 0), torch.from_numpy(np.array(Image.open(pairs[0].image))))
    assert item["data_samples"].gt_sem_seg.shape == (40, 48)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("scale=[512]", "scale is [512]; expected 2 numbers"),
        ("scale=[512,0]", "expected at least 1"),
        ("ratio_range=[1,2,3]", "expected 2 numbers"),
        ("cat_max_ratio=2", "expected from 0 to 1"),
    ],
)
def test_options_that_make_no_sense(option: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        load_config(SegmentationConfig, None, [f"data.{option}"])


def test_real_data(data_dir: Path) -> None:
    for name, classes, pictures in (("ade20k_mini", 150, 6), ("camvid_mini", 11, 51), ("cocostuff27_mini", 27, 51)):
        root = data_dir / name
        names = read_classes(SegmentationDataOptions(root=str(root)))
        pairs = find_pairs(root / "images/validation", root / "annotations/validation")
        found = check_split("validation", SegmentationDataOptions(root=str(root)), len(names), 100)
        assert (len(names), len(pairs), found.faults) == (classes, pictures, [])


def test_pictures_kept_in_memory_give_the_same_samples(ade_root: Path) -> None:
    pairs = training_pairs(ade_root)
    plain, kept = (
        SegmentationDataset(pairs, CLASSES, options(ade_root, keep=keep), True) for keep in ("none", "memory")
    )
    for seed in range(3):
        for index in range(len(pairs)):
            samples = []
            for data in (plain, kept):
                seed_all(seed, index)
                samples.append(data[index])
            one, other = samples
            assert torch.equal(one["inputs"], other["inputs"])
            assert torch.equal(one["data_samples"].gt_sem_seg.data, other["data_samples"].gt_sem_seg.data)
