"""Predictions on any pictures: the model's own, drawn and in its data's format, whatever else lies in the folder."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from names import NASTY
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from tiny_detector import CLASSES, write_run

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import Category, ImageRecord
from convmae.detection.data.dataset import EvalSet, collate_test
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config, save_config, to_yaml
from convmae.engine.files import save_weights
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.dataset import SegmentationDataset
from convmae.segmentation.data.layout import Pair, read_label
from convmae.segmentation.model.upernet import build_model
from convmae.tools import predict


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A detector with random weights and the recipe of its run beside it, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return tmp_path


def write_pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Pictures of several modes and sizes, one turned by its EXIF data; returns width and height by name, as shown."""
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("P").save(folder / "deep" / "turned.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    image.resize((1, 1)).save(folder / "dot.png")
    image.resize((1, 4000)).save(folder / "line.png")
    sizes = {"turned.jpg": (60, 80), "cmyk.jpg": (80, 60), "deep/turned.png": (80, 60), "deep.png": (80, 60)}
    return {**sizes, "dot.png": (1, 1), "line.png": (1, 4000)}


def test_pictures_of_all_kinds_are_drawn_and_written_and_broken_ones_named(
    run_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    sizes = write_pictures(run_dir / "pictures")
    (run_dir / "pictures" / "broken.jpg").write_bytes(b"no picture")
    argv = [
        "det",
        "model.pth",
        "pictures",
        "gone.png",
        "--output",
        "out",
        "--score-threshold",
        "0.05",
        "--device",
        "cpu",
    ]
    assert predict.main(argv) == 1
    said = capsys.readouterr()
    assert "broken.jpg can't be read" in said.err
    assert "There is no picture gone.png" in said.err
    assert "2 could not be read" in said.out
    content = json.loads((run_dir / "out" / "detections.json").read_text())
    assert [(one["id"], one["name"]) for one in content["categories"]] == [(3, "box"), (7, "disc"), (90, "bar")]
    shown = {Path(one["file_name"]).relative_to("pictures").as_posix(): one for one in content["images"]}
    assert {name: (one["width"], one["height"]) for name, one in shown.items()} == sizes
    by_id = {one["id"]: one for one in content["images"]}
    assert len(content["annotations"]) > 10
    for row in content["annotations"]:
        image = by_id[row["image_id"]]
        left, top, width, height = row["bbox"]
        assert 0 <= left < left + width <= image["width"] + 1e-3
        assert 0 <= top < top + height <= image["height"] + 1e-3
        assert row["score"] >= 0.05
        assert row["segmentation"]["size"] == [image["height"], image["width"]]
        assert row["area"] == mask_api.area(row["segmentation"])
        assert row["category_id"] in (3, 7, 90)
    loaded = COCO(str(run_dir / "out" / "detections.json"))
    assert set(loaded.imgs) == set(by_id)
    assert len(loaded.loadRes(content["annotations"]).anns) == len(content["annotations"])
    drawn = {path.relative_to(run_dir / "out").as_posix() for path in (run_dir / "out").rglob("*.*g")}
    assert drawn == set(sizes)
    with Image.open(run_dir / "out" / "turned.jpg") as drawing:
        assert drawing.height > drawing.width


@pytest.mark.parametrize("options", [[], ["inference.flip=true", "inference.scales=[1,0.5]"]])
def test_detections_are_those_of_an_evaluation(
    run_dir: Path, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    image.save("a.png")
    argv = ["det", "model.pth", "a.png", "--score-threshold", "0.05", "--cfg-options", "data.img_size=64", *options]
    assert predict.main(argv) == 0
    said = "4 a picture, scale 1, 0.5, mirrored too" if options else "1 a picture, scale 1"
    assert f"views: {said}\n" in capsys.readouterr().out
    rows = json.loads(Path("predictions/detections.json").read_text())["annotations"]
    config = load_config(DetectionConfig, "config.yaml", options)
    model = DetectionModel(config, CLASSES).eval()
    model.load_state_dict(torch.load("model.pth", weights_only=True)["model"])
    data = CocoData(Path("none.json"), run_dir, CLASSES, [ImageRecord(1, "a.png", 70, 50)], {})
    with torch.no_grad():
        (found,) = model(**collate_test([EvalSet(data, *config.inference.sides(64))[0]]), mode="predict")
    assert [row["score"] for row in rows] == pytest.approx(found["scores"].tolist())
    assert len(rows) == len(found["scores"]) > 0
    corners = [[row["bbox"][0], row["bbox"][1], sum(row["bbox"][::2]), sum(row["bbox"][1::2])] for row in rows]
    np.testing.assert_allclose(corners, found["boxes"].numpy(), rtol=1e-4, atol=1e-3)
    assert [row["segmentation"] for row in rows] == found["masks"]


def test_classes_and_pictures_of_any_name_are_drawn_and_written(run_dir: Path) -> None:
    categories = [Category(number, name) for number, name in enumerate(NASTY, 1)]
    config = load_config(DetectionConfig, "config.yaml", ["model.detections=100"])
    save_config(config, Path("config.yaml"))
    save_weights(DetectionModel(config, categories).state_dict(), Path("model.pth"), to_yaml(config))
    name = os.fsdecode(b"h\xfc $x$\n.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(name)
    assert predict.main(["det", "model.pth", name, "--score-threshold", "0"]) == 0
    assert Path("predictions", name).is_file()
    content = json.loads(Path("predictions/detections.json").read_text(encoding="ascii"))
    assert [category["name"] for category in content["categories"]] == NASTY
    assert [image["file_name"] for image in content["images"]] == [name]
    assert content["annotations"]


def test_the_threshold_drops_and_the_weights_alone_suffice(run_dir: Path) -> None:
    Image.new("RGB", (70, 50), (200, 30, 30)).save("a.png")
    Path("config.yaml").unlink()  # the weights have it, too
    assert predict.main(["det", "model.pth", "a.png", "--score-threshold", "1"]) == 0
    assert json.loads(Path("predictions/detections.json").read_text())["annotations"] == []
    assert Path("predictions/a.png").is_file()


def test_pictures_of_one_name_are_drawn_apart(run_dir: Path) -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Image.new("RGB", (20, 20)).save(f"{folder}/a.png")
    Image.new("RGB", (20, 20)).save("one/a.bmp")
    assert predict.main(["det", "model.pth", "one", "two/a.png"]) == 0
    assert sorted(path.name for path in Path("predictions").iterdir()) == [
        "a-2.png",
        "a-3.png",
        "a.png",
        "detections.json",
    ]


def test_mistakes_are_answered_in_one_line(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("RGB", (20, 20)).save("a.png")
    Path("empty").mkdir()
    weights = torch.load("model.pth", weights_only=True)["model"]
    Path("bare").mkdir()
    save_weights(weights, Path("bare/model.pth"))
    torch.save({"model": {name: value for name, value in weights.items() if name != "_extra_state"}}, "nameless.pth")
    for argv, said in (
        (["gone.pth", "a.png"], "There is no checkpoint gone.pth"),
        (["model.pth", "empty"], "empty holds no pictures"),
        (["model.pth", "a.png", "--score-threshold", "2"], "expected 0 to 1"),
        (["model.pth", "a.png", "--output", "."], "give another folder by --output"),
        (["bare/model.pth", "a.png"], "give its recipe by --config"),
        (["nameless.pth", "a.png"], "does not name its classes"),
    ):
        assert predict.main(["det", *argv]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert said in error
    assert predict.main(["det", "model.pth", "a.png"]) == 0
    assert predict.main(["det", "model.pth", "a.png"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert predict.main(["det", "model.pth", "a.png", "--overwrite"]) == 0


@pytest.fixture
def seg_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A segmenter with random weights, its recipe beside it, and no data anywhere, in the current folder."""
    monkeypatch.chdir(tmp_path)
    options = ["data.crop=32", "data.scale=[64,48]", "inference.crop=32", "inference.stride=20", "inference.mode=slide"]
    options += ["model.decode_channels=16", "model.aux_channels=16", "runtime.precision=fp32", "runtime.device=cpu"]
    config = load_config(SegmentationConfig, "upernet_tiny_camvid.yaml", options)
    torch.manual_seed(0)
    model = build_model(config, 3)
    model.decode_head.conv_seg.weight.data *= 1000  # so that a pixel's class follows from what is there
    meta = {"dataset_meta": {"classes": ["sky", "road, route", "car"]}}
    save_weights(model.state_dict(), tmp_path / "model.pth", to_yaml(config), meta)
    save_config(config, tmp_path / "config.yaml")
    return tmp_path


def test_label_maps_of_all_kinds_of_pictures(seg_dir: Path, capsys: pytest.CaptureFixture) -> None:
    sizes = write_pictures(seg_dir / "pictures")
    (seg_dir / "pictures" / "broken.jpg").write_bytes(b"no picture")
    assert predict.main(["seg", "model.pth", "pictures", "gone.png", "--output", "out", "--device", "cpu"]) == 1
    said = capsys.readouterr()
    assert "broken.jpg can't be read" in said.err
    assert "There is no picture gone.png" in said.err
    assert "2 could not be read" in said.out
    overlays = {path.relative_to("out/overlays").as_posix() for path in Path("out/overlays").rglob("*.*g")}
    assert overlays == set(sizes)
    rows = json.loads(Path("out/legend.json").read_text())
    assert [(row["index"], row["name"]) for row in rows] == [(1, "sky"), (2, "road, route"), (3, "car")]
    colours = {row["index"]: tuple(row["color"]) for row in rows}
    with Image.open("out/legend.png") as legend:
        shown = {colour for _, colour in legend.getcolors(100_000)}
    assert set(colours.values()) <= shown
    for name, size in sizes.items():
        with Image.open(Path("out/labels") / Path(name).with_suffix(".png")) as label_map:
            assert (label_map.mode, label_map.size) == ("P", size)
            indices = np.array(label_map)
            assert set(np.unique(indices).tolist()) <= {1, 2, 3}
            assert {colours[int(index)] for index in np.unique(indices)} == set(
                map(tuple, np.array(label_map.convert("RGB")).reshape(-1, 3).tolist())
            )


def test_no_picture_of_the_users_is_drawn_over_unasked(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    """Another picture of the same name lies where the drawing goes."""
    Path("new").mkdir()
    Image.new("RGB", (40, 30)).save("new/a.png")
    Path("out").mkdir()
    Image.new("RGB", (9, 9), "red").save("out/a.png")
    argv = ["det", "model.pth", "new", "--output", "out"]
    assert predict.main(argv) == 2
    assert "out/a.png is there already: give another --output, or --overwrite." in capsys.readouterr().err
    assert Image.open("out/a.png").size == (9, 9)
    assert not Path("out/detections.json").exists()
    assert predict.main([*argv, "--no-drawings"]) == 0
    assert Image.open("out/a.png").size == (9, 9)
    assert predict.main([*argv, "--overwrite"]) == 0
    assert Image.open("out/a.png").size != (9, 9)


def test_no_label_map_of_the_users_is_replaced_unasked(seg_dir: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("RGB", (40, 30)).save("a.jpg")
    Path("out/labels").mkdir(parents=True)
    Image.new("L", (9, 9)).save("out/labels/a.png")
    assert predict.main(["seg", "model.pth", "a.jpg", "--output", "out"]) == 2
    assert "out/labels/a.png is there already" in capsys.readouterr().err
    assert Image.open("out/labels/a.png").size == (9, 9)


def test_label_maps_are_those_of_an_evaluation_and_of_the_datas_numbering(seg_dir: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    options = ["inference.scales=[0.5,1]", "inference.flip=true"]
    assert predict.main(["seg", "model.pth", "a.png", "--cfg-options", *options]) == 0
    found = read_label(Path("predictions/labels/a.png"), 3, reduce_zero_label=True)
    config = load_config(SegmentationConfig, "config.yaml", options)
    model = build_model(config, 3).eval()
    model.load_state_dict(torch.load("model.pth", weights_only=True)["model"])
    Image.fromarray(np.ones((50, 70), np.uint8)).save("truth.png")
    data = SegmentationDataset([Pair(Path("a.png"), Path("truth.png"))], ["a", "b", "c"], config.data, train=False)
    with torch.no_grad():
        (sample,) = model.val_step(pseudo_collate([data[0]]))
    assert np.array_equal(sample.pred_sem_seg.data[0].numpy(), found)
    assert len(np.unique(found)) > 1
    options = ["data.reduce_zero_label=false", *options]
    assert predict.main(["seg", "model.pth", "a.png", "--overwrite", "--cfg-options", *options]) == 0
    assert np.array_equal(np.array(Image.open("predictions/labels/a.png")), found)
    assert json.loads(Path("predictions/legend.json").read_text())[0]["index"] == 0


def test_mistakes_with_segmenters_are_answered_in_one_line(seg_dir: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("RGB", (20, 20)).save("a.png")
    content = torch.load("model.pth", weights_only=True)
    torch.save({"model": content["model"]}, "nameless.pth")
    Path("four").mkdir()
    save_weights(content["model"], Path("four/model.pth"), meta={"CLASSES": ("a", "b", "c", "d")})
    for argv, said in (
        (["gone.pth", "a.png"], "There is no checkpoint gone.pth"),
        (["model.pth", "a.png", "--output", "."], "give another folder by --output"),
        (["nameless.pth", "a.png"], "nameless.pth does not name its classes. No class list at"),
        (["four/model.pth", "a.png"], "give its recipe by --config"),
        (
            ["four/model.pth", "a.png", "--config", "config.yaml"],
            "four/model.pth: its classifier does not fit the 4 classes",
        ),
        (["model.pth", "a.png", "--cfg-options", "inference.scales=[]"], "inference.scales is []"),
        (["model.pth", "a.png", "--config", "mask_rcnn_tiny_256px.yaml"], "there is no option"),
    ):
        assert predict.main(["seg", *argv]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert said in error
    Path("list.txt").write_text("a\nb\nc\n")
    argv = ["seg", "nameless.pth", "a.png", "--cfg-options", "data.classes=list.txt"]
    assert predict.main(argv) == 0
    assert predict.main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    Path("config.yaml").unlink()
    assert predict.main(["seg", "model.pth", "a.png", "--overwrite"]) == 0  # the weights have it, too
