"""The detector learns, whatever is in the batch; losses, weights and classes are where others look for them."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from tiny_detector import SIZE, batch_of, small_config

from convmae.detection.data.coco import Category, read_coco
from convmae.detection.data.dataset import EvalSet, collate_test
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.weights import init_weights, load_detector
from convmae.engine.errors import UserError
from convmae.engine.files import save_weights


def test_training_on_two_pictures_lowers_the_loss(split: Path) -> None:
    torch.manual_seed(0)
    config = small_config()
    model = DetectionModel(config, read_coco(split / "instances.json", split / "images").categories).train()
    batch = batch_of(split, config, (0, 1))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    history = []
    for _ in range(8):
        losses = model(**batch, mode="loss")
        history.append({name: value.item() for name, value in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert set(history[0]) == {"loss_rpn_class", "loss_rpn_box", "loss_class", "loss_box", "loss_mask"}
    assert sum(history[-1].values()) < 0.8 * sum(history[0].values())
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("norm", ["syncbn", "bn", "ln", "none"])
def test_every_norm_stands_in_pyramid_and_heads(norm: str) -> None:
    model = revert_sync_batchnorm(DetectionModel(small_config(norm=norm), [Category(1, "one")])).train()
    found = model.model.features(torch.randn(1, 3, SIZE, SIZE))
    assert [tuple(level.shape[1:]) for level in found] == [(32, SIZE // s, SIZE // s) for s in (4, 8, 16, 32, 64)]
    assert any("mask_head.0.1.weight" in name for name in model.state_dict()) == (norm != "none")


def test_a_batch_without_objects_trains_and_without_detections_predicts(split: Path) -> None:
    torch.manual_seed(0)
    config = small_config(score_threshold=0.99)
    data = read_coco(split / "instances.json", split / "images")
    model = DetectionModel(config, data.categories).train()
    losses = model(**batch_of(split, config, (3, 3)), mode="loss")
    assert losses["loss_box"] == losses["loss_mask"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # as training across processes needs
    model.eval()
    with torch.no_grad():
        (found,) = model(**collate_test([EvalSet(data, SIZE)[0]]), mode="predict")
    assert found["boxes"].shape == (0, 4)
    assert found["masks"] == []


def test_predictions_are_in_the_pictures_own_pixels(split: Path) -> None:
    torch.manual_seed(0)
    config = small_config(score_threshold=0.0)
    data = read_coco(split / "instances.json", split / "images")
    model = DetectionModel(config, data.categories).eval()
    test_set = EvalSet(data, SIZE)
    with torch.no_grad():
        predictions = model(**collate_test([test_set[0], test_set[1]]), mode="predict")
    for image, found in zip(data.images, predictions, strict=False):
        assert found["image_id"] == image.id
        assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"]) == len(found["masks"]) > 0
        assert found["boxes"].min() >= 0
        assert (found["boxes"].amax(0)[2:] <= torch.tensor([image.width, image.height])).all()
        assert found["boxes"][:, 3].max() > 0.6 * image.height
        assert found["masks"][0]["size"] == [image.height, image.width]


def test_pictures_of_a_batch_do_not_change_one_another(split: Path) -> None:
    torch.manual_seed(0)
    config = small_config(score_threshold=0.0)
    data = read_coco(split / "instances.json", split / "images")
    model = DetectionModel(config, data.categories).eval()
    test_set = EvalSet(data, SIZE)
    with torch.no_grad():
        together = model(**collate_test([test_set[0], test_set[1]]), mode="predict")
        alone = model(**collate_test([test_set[1]]), mode="predict")
    assert torch.allclose(together[1]["scores"], alone[0]["scores"], atol=1e-5)
    assert torch.allclose(together[1]["boxes"], alone[0]["boxes"], atol=1e-3)
    assert torch.equal(together[1]["labels"], alone[0]["labels"])


def test_boxes_alone_need_no_masks(split: Path) -> None:
    torch.manual_seed(0)
    config = small_config(masks=False)
    model = DetectionModel(config, [Category(3, "box"), Category(7, "disc"), Category(90, "bar")]).train()
    losses = model(**batch_of(split, config, (0, 1)), mode="loss")
    assert "loss_mask" not in losses
    assert not any("mask" in name for name in model.state_dict())


def test_weights_of_a_run_fill_the_model_and_carry_its_classes(split: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    categories = [Category(3, "box"), Category(7, "disc")]
    first = DetectionModel(small_config(), categories)
    path = save_weights(first.state_dict(), tmp_path / "model.pth")
    second = DetectionModel(small_config(), categories)
    load_detector(second, path)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
    with pytest.raises(UserError, match="was trained on classes with 'disc' where the data has 'bar'"):
        load_detector(DetectionModel(small_config(), [Category(3, "box"), Category(90, "bar")]), path)
    with pytest.raises(UserError, match="leaves"):
        load_detector(DetectionModel(small_config(mask_convs=[16, 16]), categories), path)


def test_an_encoder_alone_fills_the_backbone_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = DetectionModel(small_config(), [Category(1, "one")])
    path = save_weights(source.model.backbone.state_dict(), tmp_path / "encoder.pth")
    torch.manual_seed(1)
    target = DetectionModel(small_config(), [Category(1, "one")])
    before = copy.deepcopy(target.model.rpn.state_dict())
    init_weights(target, str(path))
    assert torch.equal(
        target.model.backbone.blocks3[0].attn.qkv.weight, source.model.backbone.blocks3[0].attn.qkv.weight
    )
    assert all(torch.equal(value, before[name]) for name, value in target.model.rpn.state_dict().items())
