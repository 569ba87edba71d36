"""The generated scenes: the same for a seed, annotated exactly, in three layouts, not told apart by colour."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from convmae.engine.errors import UserError
from convmae.engine.pictures import scenes
from convmae.engine.pictures.scenes import CLASSES, Layouts, Scene, draw_scene, generate

CLASS_COUNT = len(CLASSES) + 1  # with the background


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    return generate(tmp_path_factory.mktemp("scenes") / "set", train=12, val=5, unlabelled=4, size=96, seed=3)


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [draw_scene(0, "train", index, 128) for index in range(150)]


def test_a_scene_depends_on_seed_split_and_index_alone(tmp_path: Path) -> None:
    alone = draw_scene(5, "train", 7, 96)
    draw_scene(5, "train", 6, 96)
    again = draw_scene(5, "train", 7, 96)
    np.testing.assert_array_equal(alone.image, again.image)
    np.testing.assert_array_equal(alone.masks, again.masks)
    for other in (draw_scene(6, "train", 7, 96), draw_scene(5, "val", 7, 96), draw_scene(5, "train", 8, 96)):
        assert not np.array_equal(alone.image, other.image)
    few = generate(tmp_path / "few", train=2, val=1, size=96, seed=5)
    more = generate(tmp_path / "more", train=4, val=2, unlabelled=1, size=96, seed=5)
    for name in ("train2017/train_000001.jpg", "val2017/val_000000.jpg"):
        assert (few.coco / name).read_bytes() == (more.coco / name).read_bytes()


def test_scenes_are_as_varied_as_promised(drawn: list[Scene]) -> None:
    counts = [len(scene.labels) for scene in drawn]
    assert min(counts) == 2
    assert max(counts) == 8
    seen = np.bincount(np.concatenate([scene.labels for scene in drawn]), minlength=len(CLASSES))
    assert seen.min() > 0.7 * seen.mean()  # every class is common
    discs = [mask.sum() for scene in drawn for mask, label in zip(scene.masks, scene.labels, strict=True) if label == 0]
    assert np.sqrt(max(discs) / np.median(discs)) > 1.7  # diameters on both sides of the middle of a 4x range
    assert np.sqrt(max(discs) / min(discs)) > 3.5


def test_masks_do_not_overlap_and_no_object_nearly_vanishes(drawn: list[Scene]) -> None:
    smallest = np.pi / 4 * (128 * scenes.EXTENT[0]) ** 2 * 0.35 * scenes.MIN_VISIBLE  # a star fills 0.39 of its circle
    for scene in drawn:
        assert scene.masks.sum(axis=0).max() <= 1
        assert scene.masks.sum(axis=(1, 2)).min() > smallest
        assert (scene.label_map > 1).sum() == scene.masks.sum()


def test_objects_are_occluded(drawn: list[Scene]) -> None:
    """Some discs show less than the circle around what is seen of them, and not for lying at the border."""
    hidden = 0
    for scene in drawn:
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            rows, columns = np.nonzero(mask)
            inside = min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 127
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            hidden += bool(label == 0 and inside and mask.sum() < 0.7 * height * width)
    assert hidden >= 10


def test_an_object_stands_out_from_what_is_around_it(drawn: list[Scene]) -> None:
    distances = []
    for scene in drawn:
        background = np.median(scene.image[scene.label_map == 1], axis=0)
        distances += [np.linalg.norm(np.median(scene.image[mask], axis=0) - background) for mask in scene.masks]
    assert np.quantile(distances, 0.02) > 60


@pytest.mark.parametrize("balanced", [False, True], ids=["likeliest", "balanced"])
def test_colour_does_not_give_the_class_away(balanced: bool) -> None:
    """A table of the class of every colour, fitted on 300 scenes, stays below 0.35 mIoU on others, and among objects alone
    does little better than the one in five of a guess."""
    confusion = colour_classifier(300, 100, balanced)
    assert mean_iou(confusion) < 0.35
    objects = confusion[1:, 1:]
    assert np.diag(objects).sum() / objects.sum() < 0.3


def colour_classifier(train: int, val: int, balanced: bool, size: int = 96, levels: int = 12) -> np.ndarray:
    """Pixels by true and answered class, [6, 6]; the answer is the class that is most frequent among pixels of a colour,
    of which there are levels^3, by plain counts or by each class's own share."""
    table = np.zeros((levels**3, CLASS_COUNT))
    for index in range(train):
        colours, labels = _colours_and_labels(draw_scene(0, "train", index, size), levels)
        np.add.at(table, (colours, labels), 1)
    if balanced:
        table /= table.sum(axis=0)
    answer = table.argmax(axis=1)
    confusion = np.zeros((CLASS_COUNT, CLASS_COUNT))
    for index in range(val):
        colours, labels = _colours_and_labels(draw_scene(0, "val", index, size), levels)
        np.add.at(confusion, (labels, answer[colours]), 1)
    return confusion


def mean_iou(confusion: np.ndarray) -> float:
    hits = np.diag(confusion)
    return float(np.mean(hits / (confusion.sum(axis=0) + confusion.sum(axis=1) - hits)))


def _colours_and_labels(scene: Scene, levels: int) -> tuple[np.ndarray, np.ndarray]:
    steps = scene.image.reshape(-1, 3).astype(np.int64) * levels // 256
    return steps @ (levels**2, levels, 1), scene.label_map.ravel().astype(np.int64) - 1


@pytest.mark.parametrize(("split", "long_name", "count"), [("train", "training", 12), ("val", "validation", 5)])
def test_coco_and_ade20k_say_the_same(layouts: Layouts, split: str, long_name: str, count: int) -> None:
    coco = COCO(str(layouts.coco / "annotations" / f"instances_{split}2017.json"))
    assert len(coco.imgs) == count
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for index, image in enumerate(coco.imgs.values()):
        scene = draw_scene(3, split, index, 96)
        picture = Image.open(layouts.coco / f"{split}2017" / image["file_name"])
        assert picture.size == (image["width"], image["height"]) == (96, 96)
        stem = Path(image["file_name"]).stem
        labels = np.array(Image.open(layouts.ade20k / "annotations" / long_name / f"{stem}.png"))
        np.testing.assert_array_equal(labels, scene.label_map)
        assert (layouts.ade20k / "images" / long_name / f"{stem}.jpg").is_file()
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(annotations) == len(scene.labels)
        for annotation, mask, label in zip(annotations, scene.masks, scene.labels, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)
            assert annotation["category_id"] == label + 1
            assert annotation["area"] == mask.sum()
            left, top, width, height = annotation["bbox"]
            assert mask[top : top + height, left : left + width].sum() == mask.sum()
            assert mask[top].any()
            assert mask[top + height - 1].any()
            assert mask[:, left].any()
            assert mask[:, left + width - 1].any()


def test_the_pretraining_folder_never_holds_a_validation_picture(layouts: Layouts) -> None:
    names = sorted(path.name for path in layouts.images.iterdir())
    assert len(names) == 12 + 4
    assert not [name for name in names if name.startswith("val")]
    validation = {path.read_bytes() for path in (layouts.coco / "val2017").iterdir()}
    assert not validation & {path.read_bytes() for path in layouts.images.iterdir()}


def test_class_list_matches_the_labels(layouts: Layouts) -> None:
    lines = (layouts.ade20k / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[1] for line in lines[1:]] == ["background", *CLASSES]
    assert [int(line.split("\t")[0]) for line in lines] == list(range(CLASS_COUNT + 1))


def test_the_same_set_is_kept_and_anything_else_refused(tmp_path: Path) -> None:
    first = generate(tmp_path / "set", train=1, val=1, size=64)
    picture = first.coco / "val2017" / "val_000000.jpg"
    written = picture.stat().st_mtime_ns
    assert generate(tmp_path / "set", train=1, val=1, size=64) == first
    assert picture.stat().st_mtime_ns == written
    with pytest.raises(UserError, match="holds something else"):
        generate(tmp_path / "set", train=2, val=1, size=64)
    assert json.loads((tmp_path / "set" / scenes.MARKER).read_text(encoding="utf-8"))["train"] == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        generate(tmp_path / "mine", train=1, val=1, size=64)


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"unlabelled": -1}, {"size": 32}])
def test_impossible_sets_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="expected at least one"):
        generate(tmp_path / "set", **{"train": 1, "val": 1, "size": 64, **wrong})
    assert not (tmp_path / "set").exists()


def test_class_folders_hold_a_crop_of_every_object(layouts: Layouts) -> None:
    for split in ("train", "val"):
        coco = COCO(str(layouts.coco / "annotations" / f"instances_{split}2017.json"))
        for category in coco.dataset["categories"]:
            pictures = sorted((layouts.classes / split / category["name"]).iterdir())
            objects = coco.getAnnIds(catIds=[category["id"]])
            assert len(pictures) == len(objects)
            for annotation in coco.loadAnns(objects):
                stem = coco.imgs[annotation["image_id"]]["file_name"].removesuffix(".jpg")
                crop = Image.open(layouts.classes / split / category["name"] / f"{stem}_{annotation['id'] - 1:06d}.jpg")
                longer = max(annotation["bbox"][2:])
                assert crop.width == crop.height == min(96, int(np.ceil(1.25 * longer)))
