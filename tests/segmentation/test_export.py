"""A segmenter's graph labels pictures as PyTorch does, whatever their number and size, and a wrong one is noticed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.export.graphs import open_session, run, write_graph
from convmae.engine.export.operators import AnyAveragePool
from convmae.segmentation import export
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.inference import slide
from convmae.segmentation.model.upernet import UPerNet, build_model

pytest.importorskip("onnxruntime", reason="no onnxruntime: install the packages of the extra `export`")

SMALL = ["model.size=tiny", "data.crop=64", "data.scale=[160,64]", "model.decode_channels=16", "model.aux_channels=16"]
FORMS = {
    "whole": ["inference.mode=whole"],
    "whole_max_pool": [
        "inference.mode=whole",
        "model.downsample=max_pool",
        "model.in_chans=2",
        "data.photometric=false",
    ],
    "slide": ["inference.mode=slide", "inference.crop=64", "inference.stride=43"],
    "slide_small_steps": ["inference.mode=slide", "inference.crop=80", "inference.stride=20"],
}
SIZES = ((1, 64, 64), (2, 64, 120), (1, 33, 250), (3, 97, 31), (1, 200, 150))


def segmenter(*options: str) -> tuple[UPerNet, SegmentationConfig]:
    config = load_config(SegmentationConfig, "upernet_tiny_camvid.yaml", [*SMALL, *options])
    torch.manual_seed(0)
    model = build_model(config, 5).eval()
    for name, parameter in model.named_parameters():
        if "bias_table" in name:
            nn.init.normal_(parameter, std=0.5)
    nn.init.normal_(model.decode_head.conv_seg.weight, std=1.0)
    return model, config


def pictures(batch: int, height: int, width: int, channels: int = 3) -> Any:
    rough = torch.rand(batch, channels, 5, 7, generator=torch.Generator().manual_seed(batch))
    smooth = nn.functional.interpolate(rough, (height, width), mode="bilinear")
    return (smooth * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def exported(model: UPerNet, config: SegmentationConfig, folder: Path, output: str) -> tuple[Any, Any]:
    graph = export.SegmenterGraph(model, config, output)
    write_graph(graph, export.example(config), export.PORTS[output], folder / "a.onnx", 18, {})
    return graph, open_session(folder / "a.onnx", 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("output", ["labels", "logits"])
def test_the_graph_labels_as_pytorch_does(form: str, output: str, tmp_path: Path) -> None:
    model, config = segmenter(*FORMS[form])
    graph, session = exported(model, config, tmp_path, output)
    batches = [pictures(*size, config.model.in_chans) for size in SIZES]
    lines, worst = export.compare(graph, model, session, batches)
    assert len(lines) == len(SIZES)
    assert worst.keys() == {output}
    assert worst[output] < export.TOLERANCE
    for images in batches:
        (found,) = run(session, images)
        shape = images.shape[:3]
        assert found.shape == (shape if output == "labels" else (shape[0], 5, *shape[1:]))
        assert found.dtype == (np.uint8 if output == "labels" else np.float32)


def test_a_graph_that_labels_otherwise_is_noticed(tmp_path: Path) -> None:
    model, config = segmenter("inference.mode=whole")
    for output, message in (("labels", "labels differ"), ("logits", "logits differ")):
        _, session = exported(model, config, tmp_path, output)
        with torch.no_grad():
            model.decode_head.conv_seg.bias[2] += 5
        with pytest.raises(UserError, match=f"{message}.*nothing is written"):
            export.compare(export.SegmenterGraph(model, config, output), model, session, [pictures(1, 64, 90)])
        with torch.no_grad():
            model.decode_head.conv_seg.bias[2] -= 5


def test_several_views_are_refused() -> None:
    model, config = segmenter("inference.scales=[1.0,1.5]")
    with pytest.raises(UserError, match=r"inference\.scales=\[1\.0\]"):
        export.SegmenterGraph(model, config)


@pytest.mark.parametrize(("height", "width", "crop", "stride"), [(50, 90, 32, 20), (32, 33, 32, 32), (10, 200, 64, 7)])
def test_windows_are_averaged_as_one_by_one(height: int, width: int, crop: int, stride: int) -> None:
    torch.manual_seed(0)
    values = torch.rand(2, 3, height, width)

    def score(windows: torch.Tensor) -> torch.Tensor:  # that depends on where in its window a pixel is
        return windows * torch.arange(windows.shape[3]) + torch.arange(windows.shape[2])[:, None]

    expected = slide(score, values, crop, stride)
    tops, lefts = (export.Starts(side, crop, stride) for side in (height, width))
    windows = values[:, :, tops.pixels()][:, :, :, :, lefts.pixels()].permute(0, 1, 2, 4, 3, 5)
    parts = score(windows.flatten(0, 3)[:, None].expand(-1, 1, -1, -1)).reshape(windows.shape).permute(0, 1, 2, 4, 3, 5)
    rows = tops.mean(parts.flatten(4).flatten(2, 3), 2).reshape(2, 3, height, -1)
    torch.testing.assert_close(lefts.mean(rows, 3), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 6), (13, 16)])
def test_pooling_is_pytorchs(size: int, shape: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *shape)
    torch.testing.assert_close(AnyAveragePool(size)(x), nn.functional.adaptive_avg_pool2d(x, size))
