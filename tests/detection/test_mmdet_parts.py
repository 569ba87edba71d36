"""mmdet's operators by torchvision and PyTorch give what textbook forms give; backbone and padding are this project's."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision

pytest.importorskip("mmdet", reason="mmdet is not installed (docs/mmdetection.md says how)")

from convmae.detection import mmdet_operators
from convmae.detection.mmdet import ConvViTDet
from convmae.engine.machine import mmcv_operators

# isort: split
import mmcv
from mmcv.ops import RoIAlign, batched_nms, nms
from mmcv.ops.focal_loss import sigmoid_focal_loss
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from small_states import write_encoder

from convmae import backbones
from convmae.engine.errors import UserError
from convmae.engine.files import save_weights
from convmae.engine.pictures.images import normalize

SIDE = 64


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Registry names are looked up in mmdet, as its tools make sure."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def compiled_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which mmcv looks for its operators, and where none were given yet."""
    monkeypatch.delitem(sys.modules, mmcv_operators.NAME)
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    return tmp_path


@pytest.mark.parametrize(("aligned", "ratio"), [(True, 0), (True, 2), (False, 2)])
def test_roi_align_and_its_gradient_are_torchvisions(aligned: bool, ratio: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 12, 10, generator=generator)
    corners = 40 * torch.rand(6, 2, generator=generator)
    sides = 30 * torch.rand(6, 2, generator=generator)
    rois = torch.cat([torch.arange(6)[:, None] % 2, corners, corners + sides], dim=1)
    layer = RoIAlign((5, 4), 0.25, ratio, "avg", aligned)
    mine, reference = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    found = layer(mine, rois)
    expected = torchvision.ops.roi_align(reference, rois, (5, 4), 0.25, ratio, aligned)
    weights = torch.randn(expected.shape, generator=generator)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mine.grad, reference.grad)
    half = layer(maps.bfloat16(), rois.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(maps.bfloat16().float(), rois.bfloat16().float()), rtol=0, atol=0.02)
    with pytest.raises(UserError, match="pool_mode='avg'"):
        RoIAlign((5, 4), 0.25, ratio, "max", aligned)(maps, rois)


@pytest.mark.parametrize("offset", [0, 1])
def test_suppression_is_the_textbooks(offset: int) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 30, (40, 2), generator=generator).float()
    boxes = torch.cat([corners, corners + torch.randint(1, 20, (40, 2), generator=generator)], dim=1)
    scores = torch.rand(40, generator=generator)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(dim=1)
        inner = torch.minimum(boxes[index, 2:], boxes[kept, 2:]) - torch.maximum(boxes[index, :2], boxes[kept, :2])
        common = (inner + offset).clamp(min=0).prod(dim=1)
        if not (common / (areas[index] + areas[kept] - common) > 0.4).any():
            kept.append(index)
    found, index = nms(boxes, scores, 0.4, offset=offset)
    assert index.tolist() == kept
    assert 5 < len(kept) < 35
    assert torch.equal(found, torch.cat([boxes, scores[:, None]], dim=1)[kept])
    groups = torch.arange(40) % 3
    assert torch.equal(
        batched_nms(boxes, scores, groups, {"type": "nms", "iou_threshold": 0.4})[1],
        torchvision.ops.batched_nms(boxes, scores, groups, 0.4),
    )


def test_deformable_attention_and_its_gradients_are_those_of_the_form_in_pytorch() -> None:
    """The function that mmcv calls on a GPU, here on the CPU."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[6, 5], [3, 2]])
    starts = torch.tensor([0, 30])
    value = torch.randn(2, 36, 4, 8, generator=generator)
    places = torch.rand(2, 7, 4, 2, 3, 2, generator=generator)
    weights = torch.rand(2, 7, 4, 2, 3, generator=generator)
    mine, reference = ([x.clone().requires_grad_() for x in (value, places, weights)] for _ in range(2))
    found = MultiScaleDeformableAttnFunction.apply(mine[0], shapes, starts, *mine[1:], 64)
    expected = multi_scale_deformable_attn_pytorch(reference[0], shapes, *reference[1:])
    torch.testing.assert_close(found, expected)
    outward = torch.randn(found.shape, generator=generator)
    for output in (found, expected):
        output.backward(outward)
    for one, other in zip(mine, reference, strict=True):
        assert other.grad.abs().sum() > 0
        torch.testing.assert_close(one.grad, other.grad)
    half = value.bfloat16().requires_grad_()
    with torch.autocast("cpu"):
        lower = MultiScaleDeformableAttnFunction.apply(half, shapes, starts, places, weights, 64)
    lower.float().backward(outward)
    assert (lower.dtype, half.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(half.grad.float(), reference[0].grad, rtol=0.1, atol=0.1)


def test_the_focal_loss_and_its_gradient_are_those_of_the_form_in_pytorch() -> None:
    """The function that mmdet calls on a GPU, here on the CPU."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(9, 4, generator=generator)
    target = torch.tensor([0, 1, 2, 3, 4, 4, 2, 1, 0])  # 4 is background
    mine, reference = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = sigmoid_focal_loss(mine, target, 2.0, 0.25, None, "none")
    expected = py_sigmoid_focal_loss(reference, F.one_hot(target, 5)[:, :4], reduction="none")
    torch.testing.assert_close(found, expected)
    outward = torch.rand(found.shape, generator=generator)
    for output in (found, expected):
        output.backward(outward)
    torch.testing.assert_close(mine.grad, reference.grad)
    with pytest.raises(UserError, match="no class weights"):
        sigmoid_focal_loss(logits, target, 2.0, 0.25, torch.ones(4), "none")


def test_other_operators_say_that_they_are_absent_when_they_are_called() -> None:
    with pytest.raises(UserError, match=r"no operator deform_conv_forward here.*roi_align_forward, .*expected a model"):
        sys.modules["mmcv._ext"].deform_conv_forward(torch.ones(1))
    assert not hasattr(sys.modules["mmcv._ext"], "__wrapped__")


def test_compiled_operators_are_never_replaced(compiled_for_another: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (compiled_for_another / "_ext.py").write_text("nms = 'compiled'\n")
    module = mmcv_operators.provide()
    assert (module.nms, hasattr(module, "roi_align_forward")) == ("compiled", False)
    assert sys.modules["mmcv._ext"] is module


def test_operators_compiled_for_another_pytorch_are_told(compiled_for_another: Path) -> None:
    (compiled_for_another / "_ext.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    with pytest.raises(UserError, match=r"don't load beside PyTorch .*undefined symbol: _ZN3c10.*Build mmcv anew"):
        mmcv_operators.provide()
    assert "mmcv._ext" not in sys.modules


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({}, "Found no mmdet; expected onedl-mmdetection 3.5.1"),
        ({"onedl-mmdetection": "3.4.0"}, "Found onedl-mmdetection 3.4.0; expected"),
        ({"mmdet": "3.3.0"}, "Found mmdet 3.3.0; expected"),
        ({"onedl-mmdetection": "3.5.1", "mmdet": "3.3.0"}, "Found onedl-mmdetection 3.5.1 and mmdet 3.3.0; expected"),
    ],
)
def test_an_mmdet_that_is_absent_or_another_is_told(
    installed: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError, match=said):
        mmdet_operators.check_version()


def test_what_was_imported_first_gets_the_operators() -> None:
    """Else functions that raise would stay in their place."""
    code = (
        "import mmdet.evaluation, mmdet.utils.large_image, mmdet.structures.mask.structures as masks; early = masks.roi_align; "
        "import convmae.detection.mmdet, mmcv.ops; assert early is not masks.roi_align is mmcv.ops.roi_align; "
        "assert mmdet.utils.large_image.batched_nms is mmcv.ops.batched_nms"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_pretrained_weights_start_the_backbone(tmp_path: Path) -> None:
    encoder = backbones.ConvViT("tiny", num_classes=0, img_size=96)
    path = save_weights(encoder.state_dict(), tmp_path / "encoder.pth")
    plain = backbones.ConvViTDet("tiny", img_size=SIDE)
    backbones.load_checkpoint(plain, path)
    model = MODELS.build({"type": "ConvViTDet", "size": "tiny", "img_size": SIDE, "init": str(path)})
    found = model.state_dict()
    assert found.keys() == plain.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in plain.state_dict().items())
    half = {name: value for name, value in encoder.state_dict().items() if not name.startswith("blocks3.1.")}
    with pytest.raises(UserError, match=r"half\.pth leaves .* unfilled \(blocks3\.1\."):
        ConvViTDet("tiny", img_size=SIDE, init=str(save_weights(half, tmp_path / "half.pth")))


def test_the_backbone_is_frozen_as_asked_for_where_weights_fill_it(tmp_path: Path) -> None:
    path = str(write_encoder(tmp_path / "encoder.pth"))
    model = ConvViTDet("tiny", img_size=SIDE, init=path, freeze="stem")
    learning = {name.partition(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert "blocks3" in learning
    assert not learning & {"patch_embed1", "blocks1", "blocks2", "pos_embed"}
    assert not any(
        value.requires_grad for value in ConvViTDet("tiny", img_size=SIDE, init=path, freeze="encoder").parameters()
    )
    with pytest.raises(UserError, match="freeze of the backbone is stem and its init empty"):
        ConvViTDet("tiny", img_size=SIDE, freeze="stem")
    with pytest.raises(UserError, match="freeze of the backbone is 'all'; expected none, stem, encoder"):
        ConvViTDet("tiny", img_size=SIDE, init=path, freeze="all")


def test_the_backbone_returns_the_maps_that_are_asked_for() -> None:
    torch.manual_seed(0)
    model = ConvViTDet("tiny", img_size=SIDE, out_indices=(1, 3)).eval()
    with torch.inference_mode():
        images = torch.randn(1, 3, SIDE, SIDE)
        found, expected = model(images), backbones.ConvViTDet.forward(model, images)
    assert [map.shape[1:] for map in found] == [(128, 8, 8), (256, 2, 2)]
    assert torch.equal(found[0], expected[1])
    assert torch.equal(found[1], expected[3])


def test_pictures_are_padded_with_grey_and_keep_their_size() -> None:
    shipped = Config.fromfile(str(resources.files("convmae.configs") / "mmdet_mask_rcnn_convmae_25e.py"))
    preprocessor = MODELS.build({**shipped.model.data_preprocessor, "side": SIDE})
    picture = torch.randint(0, 256, (3, 40, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    square = torch.full((1, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    square[0, :, :40] = picture
    sample = DetDataSample(metainfo={"img_shape": (40, SIDE)})
    found = preprocessor({"inputs": [picture.flip(0)], "data_samples": [sample]})
    torch.testing.assert_close(found["inputs"], normalize(square))
    assert found["data_samples"][0].img_shape == (40, SIDE)
    with pytest.raises(UserError, match=r"picture of 80x40 pixels; expected at most 64 a side"):
        preprocessor({"inputs": [torch.zeros(3, 40, 80, dtype=torch.uint8)], "data_samples": None})
