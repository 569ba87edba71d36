"""A file that is no COCO is refused by what it looks like."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from convmae.detection.data.annotation_file import read_json
from convmae.engine.errors import UserError

IMAGES = [{"id": 1, "file_name": "1.jpg", "width": 4, "height": 3}]
CLASSES = [{"id": 1, "name": "box"}]
OTHERS: list[tuple[Any, str]] = [
    ({"version": "5.0.1", "flags": {}, "shapes": [], "imagePath": "1.jpg"}, "labelme"),
    ({"1.jpg123": {"filename": "1.jpg", "size": 123, "regions": [], "file_attributes": {}}}, "VGG Image Annotator"),
    ({"_via_settings": {}, "_via_img_metadata": {}}, "VGG Image Annotator"),
    ([{"id": 1, "annotations": [], "data": {"image": "/data/upload/1.jpg"}}], "Label Studio"),
    ([{"image": "1.jpg", "annotations": [{"label": "box", "coordinates": {}}]}], "CreateML"),
    ([{"name": "1.jpg", "labels": [{"category": "car", "box2d": {}}]}], "BDD100K"),
    ([{"data_row": {}, "projects": {}}], "Labelbox"),
    ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    ({"description": "", "size": {"height": 3, "width": 4}, "objects": []}, "Supervisely"),
    ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "result rows"),
    (
        {"images": IMAGES, "categories": CLASSES, "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": []}]},
        "panoptic",
    ),
    ({"images": IMAGES, "categories": CLASSES, "annotations": [{"id": 1, "image_id": 1, "caption": "A box."}]}, "captions"),
    ({"images": IMAGES, "categories": CLASSES}, "It lists pictures alone"),
    ({"images": IMAGES, "categories": CLASSES, "annotations": None}, "tools/predict.py det WEIGHTS FOLDER --annotations FILE"),
]  # fmt: skip
TEXTS = [
    (b"", "It is empty"),
    (b"\n", "It is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    (gzip.compress(json.dumps({"images": []}).encode()), "unpack it"),
    (b"PK\x03\x04" + bytes(20), "unpack it"),
    (b"<!DOCTYPE html>\n<html></html>", "a web page"),
    (b"<annotation>\n <folder>1</folder></annotation>", "Pascal VOC"),
    (b"0 0.5 0.5 0.25 0.25\n1 0.1 0.2 0.3 0.4\n", "YOLO"),
    (b"train: images\nval: images\nnc: 2\nnames: [a, b]\n", "YOLO"),
    (b'{"source-ref": "s3://b/1.jpg"}\n{"source-ref": "s3://b/2.jpg"}\n', "JSON lines"),
    (b"filename,width,height,class,xmin\n1.jpg,4,3,box,0\n", "a table"),
    ('{"images": [{"file_name": "é.jpg"}]}'.encode("latin-1"), "Save it as UTF-8"),
    (b'{"images": [1,]}', "is not JSON"),
]


@pytest.mark.parametrize(("content", "said"), OTHERS, ids=[said for _, said in OTHERS])
def test_other_formats_are_named(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(("content", "said"), TEXTS, ids=[said for _, said in TEXTS])
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert f"{path} is not JSON" in str(error.value)
    assert said in str(error.value)


def test_coco_is_read_however_it_is_written(tmp_path: Path) -> None:
    content = {"images": IMAGES, "annotations": [], "categories": CLASSES, "info": {}}
    path = tmp_path / "instances.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        path.write_text(json.dumps(content, indent=1), encoding=encoding)
        assert read_json(path) == content
    keypoints = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "keypoints": [0] * 51, "score": 1}
    stuff = {**keypoints, "segmentation": {"counts": [12], "size": [3, 4]}}
    for one in (keypoints, stuff):
        path.write_text(json.dumps({**content, "annotations": [one]}))
        assert read_json(path)["annotations"] == [one]
