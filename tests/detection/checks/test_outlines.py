"""What masks span and cover, for all of a split at once, against pycocotools."""

import json
from pathlib import Path

import numpy as np
from drawn_coco import SIZES, coco, edited, ellipse, runs
from pycocotools import mask as mask_api

from convmae.detection.checks.outlines import outlines
from convmae.detection.data.coco import parse_coco


def test_outlines_are_those_of_pycocotools(tmp_path: Path) -> None:
    content, path = coco(each=100), tmp_path / "instances.json"
    content = edited(
        content, lambda one, w, h: one.update(segmentation=runs(one["segmentation"], int(w), int(h))), every=3
    )
    content["annotations"][4]["segmentation"].append(ellipse(2, 3, 9, 4))
    path.write_text(json.dumps(content))
    data = parse_coco(path, tmp_path, lambda fault: None)
    found = outlines(data.packed.columns, data.sizes()[data.packed.owners()])
    for row, annotation in enumerate(content["annotations"]):
        outline, (width, height) = annotation["segmentation"], SIZES[annotation["image_id"] - 1]
        if isinstance(outline, dict):
            x, y, w, h = mask_api.toBbox(outline)
            assert found.box[row].tolist() == [x, y, x + w, y + h]
            assert found.least[row] == found.most[row] == mask_api.area(outline)
        else:
            points = np.concatenate([np.reshape(part, (-1, 2)) for part in outline])
            assert found.box[row].tolist() == [*points.min(axis=0), *points.max(axis=0)]
            drawn = mask_api.area(mask_api.merge(mask_api.frPyObjects(outline, height, width)))
            assert found.least[row] * 0.8 - 2 <= drawn <= found.most[row] * 1.2 + 2
