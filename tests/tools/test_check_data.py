"""The check of data finds all that is wrong at once, says whether training would take it, and shows it."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convmae.engine.commands.next_command import CHOICES, choose
from convmae.engine.files import write_whole
from convmae.engine.recipes import shipped_recipes
from convmae.tools import check_data

OPTIONS = [
    f"data.{name}_{what}" for name in ("train", "val") for what in (f"images={name}", f"annotations={name}.json")
]
CLASSES = [{"id": 3, "name": "box"}, {"id": 7, "name": "disc"}]


def write_split(folder: Path, name: str, count: int) -> dict[str, Any]:
    """Pictures of 40 x 30 pixels with an object of each class, the JSON file not written yet; returns its content."""
    (folder / name).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        pixels = np.random.default_rng([number, count]).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 30})
        for category, left in ((3, 2), (7, 20)):
            right = left + 15
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": number,
                    "category_id": category,
                    "bbox": [left, 5, 15, 20],
                    "segmentation": [[left, 5, right, 5, right, 25, left, 25]],
                }
            )
    return {"images": images, "annotations": annotations, "categories": [dict(one) for one in CLASSES]}


@pytest.fixture
def splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    return {name: write_split(tmp_path, name, count) for name, count in (("train", 5), ("val", 4))}


def check(splits: dict[str, dict[str, Any]], *options: str) -> int:
    for name, content in splits.items():
        Path(f"{name}.json").write_text(json.dumps(content))
    return check_data.main(["coco", ".", "--overwrite", "--cfg-options", *OPTIONS, *options])


def kinds(split: str) -> dict[str, list[str]]:
    """The messages of each kind in the file that lists all."""
    found: dict[str, list[str]] = {}
    for fault in json.loads(Path("work_dirs/check_coco/metrics.json").read_text())[split]["faults"]:
        found.setdefault(fault["kind"], []).append(fault["message"])
    return found


def test_data_in_order_passes(splits: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture) -> None:
    assert check(splits) == 0
    said = capsys.readouterr().out
    assert "nothing would stop training" in said
    assert "5 pictures (0 without objects), 10 objects of 2 classes" in said
    assert kinds("training") == kinds("validation") == {}
    numbers = json.loads(Path("work_dirs/check_coco/metrics.json").read_text())["training"]
    assert numbers["classes"] == {"box": 5, "disc": 5}
    page = Path("work_dirs/check_coco/report/index.html").read_text()
    for text in ("Samples, training", "Samples, validation", "None was found", "small, to 32 x 32 px"):
        assert text in page


def test_all_faults_are_found_at_once(splits: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture) -> None:
    train, val = splits["train"], splits["val"]
    annotations = train["annotations"]
    annotations[0]["bbox"] = [2, 5, 0, 20]
    annotations[1]["bbox"] = [50, 5, 15, 20]
    annotations[2]["bbox"] = [-10, 5, 30, 20]
    annotations[3]["segmentation"] = [[20, 5, 35, 5]]
    annotations[4]["segmentation"] = {"size": [40, 30], "counts": [1200]}
    annotations[5]["id"] = 104
    annotations[6]["category_id"] = 9
    annotations[7]["image_id"] = 77
    annotations.append({**annotations[2], "id": 200, "segmentation": []})
    train["images"].append({"id": 50, "file_name": "gone.png", "width": 5, "height": 5})
    train["images"][2]["width"] = 41
    Path("train/3.png").write_bytes(Path("train/3.png").read_bytes()[:200])
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("L", (40, 30)).save("val/1.png", exif=exif)
    val["categories"].append({"id": 90, "name": "bar"})
    val["annotations"] = [one for one in val["annotations"] if one["category_id"] == 3]
    assert check(splits) == 1
    found = {kind: len(messages) for kind, messages in kinds("training").items()}
    assert found == {
        "boxes without area": 1,
        "boxes outside their picture": 1,
        "boxes partly outside": 2,
        "polygons of less than three points": 1,
        "masks of another size than their picture": 1,
        "annotation ids that occur twice": 1,
        "objects of unknown classes": 1,
        "objects of unknown pictures": 1,
        "objects without a segmentation": 1,
        "missing pictures": 1,
        "pictures of another size than the JSON says": 1,
        "unreadable pictures": 1,
    }
    assert set(kinds("validation")) == {
        "pictures turned by EXIF data",
        "classes in one split alone",
        "classes with objects in one split alone",
    }
    for kind, told in {
        "masks of another size than their picture": "annotation 104",
        "objects of unknown pictures": "annotation 107",
        "missing pictures": "image 50",
        "unreadable pictures": "image 3 of",
    }.items():
        assert told in kinds("training")[kind][0]
    said = capsys.readouterr().out
    assert "9 faults would stop training" in said
    page = Path("work_dirs/check_coco/report/index.html").read_text()
    for text in ("Pictures with remarks, training", "gone.png", "annotation 104", "bar", "stops training"):
        assert text in page


def test_boxes_alone_pass_without_masks(splits: dict[str, dict[str, Any]]) -> None:
    for content in splits.values():
        for annotation in content["annotations"]:
            del annotation["segmentation"]
    assert check(splits) == 1
    assert len(kinds("training")["objects without a segmentation"]) == 10
    assert check(splits, "model.masks=false") == 0


def test_one_unreadable_split_does_not_keep_the_other_from_being_checked(splits: dict[str, dict[str, Any]]) -> None:
    splits["train"]["annotations"][0]["bbox"] = [2, 5, 0, 20]
    for content, kind in (
        ([], "files that can't be read"),
        ({**splits["val"], "images": []}, "files that can't be read"),
    ):
        assert check({**splits, "val": content}) == 1  # type: ignore[dict-item]
        assert list(kinds("validation")) == [kind]
        assert list(kinds("training")) == ["boxes without area"]
    assert check(splits, "data.val_images=nowhere") == 1
    assert list(kinds("validation")) == ["folders without the pictures"]


def test_a_sample_of_pictures_can_be_opened(splits: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture) -> None:
    Path("train/1.png").write_bytes(b"no picture")
    for name, content in splits.items():
        Path(f"{name}.json").write_text(json.dumps(content))
    argv = ["coco", ".", "--cfg-options", *OPTIONS, "--pictures"]
    assert check_data.main([*argv, "2"]) == 0  # the first and the last
    assert "2 pictures looked at" in capsys.readouterr().out
    assert check_data.main([*argv, "-1"]) == 2
    assert check_data.main([*argv, "0"]) == 1  # and the earlier report is replaced


def test_a_check_replaces_its_own_report_and_no_other(
    splits: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture
) -> None:
    assert check(splits) == 0
    report = Path("work_dirs/check_coco/report/index.html")
    before = report.read_text()
    splits["train"]["annotations"][0]["category_id"] = 9
    argv = ["coco", ".", "--cfg-options", *OPTIONS]
    Path("train.json").write_text(json.dumps(splits["train"]))
    assert check_data.main(argv) == 1
    assert report.read_text() != before
    write_whole(Path("work_dirs/check_coco/config.yaml"), "of a test")  # as what a test writes
    assert check_data.main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err


def last_command(said: str) -> list[str]:
    (line,) = [line for line in said.splitlines() if line.startswith("to train: ")]
    return shlex.split(line.removeprefix("to train: "))


def test_it_ends_with_the_command_that_trains(
    splits: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["tools/check_data.py"])
    assert check(splits) == 0
    said = capsys.readouterr().out
    words = ["python", "tools/train_det.py", "--config", "mask_rcnn_tiny_256px.yaml", "--cfg-options", "data.root=."]
    assert last_command(said) == [*words, *OPTIONS]
    assert "for 5 pictures whose shorter side is 30 pixels" in said
    assert "add model.init=FILE" in said
    monkeypatch.setattr("sys.argv", ["/usr/bin/convmae"])
    argv = ["coco", "--config", "mask_rcnn_small_512px.yaml", "--cfg-options", "data.root=.", *OPTIONS]
    assert check_data.main([*argv, "model.init=my encoder.pth"]) == 0
    said = capsys.readouterr().out
    words = ["convmae", "train_det", "--config", "mask_rcnn_small_512px.yaml", "--cfg-options", "data.root=."]
    assert last_command(said) == [*words, *OPTIONS, "model.init=my encoder.pth"]
    assert "add model.init" not in said
    splits["train"]["annotations"][0]["category_id"] = 9
    assert check(splits) == 1
    assert "to train" not in capsys.readouterr().out


@pytest.mark.parametrize("tool", CHOICES)
def test_more_and_larger_pictures_get_larger_recipes_that_there_are(tool: str) -> None:
    names = [choose(tool, pictures, side) for pictures, side in ((10, 64), (3000, 400), (10**6, 500))]
    assert names == sorted(names, key=[one.recipe for one in CHOICES[tool]].index)
    assert names[0] != names[-1]
    assert choose(tool, 10**6, 64) == choose(tool, 10, 64)
    assert {one.recipe for one in CHOICES[tool]} <= set(shipped_recipes())
