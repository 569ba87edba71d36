"""The script of docs/deployment.md runs on both tasks' graphs where neither torch nor convmae can be imported."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco_records import Category
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config, to_yaml
from convmae.engine.files import save_weights
from convmae.engine.pictures.scenes import draw_scene
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model
from convmae.tools import export as tool

pytest.importorskip("onnxruntime", reason="no onnxruntime: install the packages of the extra `export`")

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "deployment.md"
BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "torchvision", "convmae", "cv2", "onnx"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Refuse())
"""


def detector(path: Path) -> None:
    options = ["data.img_size=64", "model.fpn_channels=16", "model.norm=gn", "model.post_nms_test=20"]
    config = load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", [*options, "model.score_threshold=0.0"])
    model = DetectionModel(config, [Category(1, "cat"), Category(2, "dog")])
    save_weights(model.state_dict(), path, to_yaml(config))


def segmenter(path: Path) -> None:
    options = ["data.crop=64", "data.scale=[96,64]", "model.decode_channels=16"]
    config = load_config(SegmentationConfig, "upernet_tiny_camvid.yaml", options)
    model = build_model(config, 3)
    save_weights(model.state_dict(), path, to_yaml(config), {"dataset_meta": {"classes": ["sky", "road", "tree"]}})


@pytest.mark.parametrize(("make", "said"), [(detector, r"\d+ objects"), (segmenter, r"(sky|road|tree): [\d.]+%")])
def test_the_script_runs_without_torch(make, said: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (script,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert script.count("\n") < 60
    make(tmp_path / "model.pth")
    assert tool.main([str(tmp_path / "model.pth")]) == 0
    Image.fromarray(draw_scene(0, "val", 0, 100).image[:70]).save(tmp_path / "picture.png")
    (tmp_path / "run.py").write_text(BLOCKED + script, encoding="utf-8")
    command = [sys.executable, "run.py", "model.onnx", "picture.png", "drawn.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stdout)
    assert Image.open(tmp_path / "drawn.png").size == (100, 70)
