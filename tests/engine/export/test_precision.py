"""Graphs in fp16 and int8 hold such weights, are smaller, take pictures of any size, and give nearly what fp32 gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco_records import Category
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config, to_yaml
from convmae.engine.export.graphs import open_session, run
from convmae.engine.export.precision import convert
from convmae.engine.files import save_weights
from convmae.engine.pictures.scenes import draw_scene
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model
from convmae.tools import export as tool

pytest.importorskip("onnxruntime", reason="no onnxruntime: install the packages of the extra `export`")

KINDS = {"fp16": ("fp16", False), "int8": ("int8", False), "int8_static": ("int8", True)}


def picture(number: int, height: int, width: int) -> NDArray[np.uint8]:
    return draw_scene(number, "val", 0, 128).image[:height, :width]


def segmenter(path: Path) -> None:
    options = ["data.crop=64", "data.scale=[96,64]", "model.decode_channels=16"]
    config = load_config(SegmentationConfig, "upernet_tiny_camvid.yaml", options)
    save_weights(build_model(config, 3).state_dict(), path, to_yaml(config), {"dataset_meta": {"classes": list("abc")}})


def detector(path: Path) -> None:
    options = ["data.img_size=64", "model.fpn_channels=16", "model.norm=gn", "model.post_nms_test=20"]
    config = load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", [*options, "model.score_threshold=0.0"])
    model = DetectionModel(config, [Category(1, "cat"), Category(2, "dog")])
    save_weights(model.state_dict(), path, to_yaml(config))


@pytest.fixture(scope="module", params=[segmenter, detector], ids=["segmenter", "detector"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """A task's name and its graphs: fp32 and each kind."""
    task, folder = request.param.__name__, tmp_path_factory.mktemp("precision")
    request.param(folder / "model.pth")
    paths = {"fp32": folder / "fp32.onnx"}
    options = ["--logits"] if task == "segmenter" else []
    assert tool.main([str(folder / "model.pth"), "--output", str(paths["fp32"]), *options]) == 0
    arrays = [picture(number, 70, 100) for number in range(3)]
    given, name = (arrays, "image") if task == "detector" else ([one[None] for one in arrays], "images")
    for kind, (precision, static) in KINDS.items():
        paths[kind] = folder / f"{kind}.onnx"
        said = convert(paths["fp32"], paths[kind], precision, given if static else (), name)
        assert ("static" in said) == static
    return task, paths


@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_graph_computes_nearly_the_same(kind: str, written: tuple[str, dict[str, Path]]) -> None:
    task, paths = written
    assert paths[kind].stat().st_size < 0.8 * paths["fp32"].stat().st_size
    assert _weights_of_type("FLOAT16" if kind == "fp16" else "INT8", paths[kind])
    whole, other = open_session(paths["fp32"], 1), open_session(paths[kind], 1)
    for height, width in ((70, 100), (128, 33)):
        pixels: Any = picture(7, height, width)
        wanted, found = (run(session, pixels if task == "detector" else pixels[None]) for session in (whole, other))
        assert [one.dtype for one in found] == [one.dtype for one in wanted]
        if task == "segmenter":
            difference = np.abs(found[0] - wanted[0]).max() / np.abs(wanted[0]).max()
            assert 0 < difference < (0.02 if kind == "fp16" else 0.3)
        else:
            boxes, scores, labels, masks = found
            assert len(boxes) == len(scores) == len(labels) == len(masks) > 0
            assert masks.shape[1:] == (height, width)
            assert abs(scores[0] - wanted[1][0]) < (0.01 if kind == "fp16" else 0.1)
            assert (boxes <= [width, height, width, height]).all()


def _weights_of_type(name: str, path: Path) -> list[str]:
    import onnx

    return [one.name for one in onnx.load(path).graph.initializer if one.data_type == getattr(onnx.TensorProto, name)]
