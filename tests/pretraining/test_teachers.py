"""Frozen teachers from timm, with weights from a local file, on images in their own normalisation."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

from convmae.backbones import CheckpointError
from convmae.engine.errors import UserError
from convmae.engine.pictures.images import IMAGENET_MEAN, IMAGENET_STD
from convmae.pretraining.teachers import TIMM_NAMES, TimmTeacher, resample_map

VIT, CONV = "vit_tiny_patch16_224.augreg_in21k", "mobilenetv3_small_050.lamb_in1k"
DINOV3 = "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random weights of small models, as files."""
    found = {}
    for name in (VIT, CONV, DINOV3):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("teachers") / "weights.pth"
        torch.save(timm.create_model(name).state_dict(), path)
        found[name] = str(path)
    return found


@pytest.mark.parametrize(("name", "prefix", "mean", "std"), [
    (VIT, 1, (0.5,), (0.5,)),
    (DINOV3, 5, IMAGENET_MEAN, IMAGENET_STD),  # which has register tokens and rotary positions
])  # fmt: skip
def test_the_values_are_the_last_normed_patch_tokens_of_its_own_image(
    name: str, prefix: int, mean: tuple[float, ...], std: tuple[float, ...], files: dict[str, str]
) -> None:
    teacher = TimmTeacher(name, files[name], (96, 64))
    net = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    net.load_state_dict(torch.load(files[name], weights_only=True), strict=False)
    pixels = torch.rand(2, 3, 96, 64)

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        return (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)

    with torch.no_grad():
        expected = net.forward_features(normalised(mean, std))[:, prefix:]
        found = teacher(normalised(IMAGENET_MEAN, IMAGENET_STD))
    assert teacher.dim == 192
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_another_grid_is_resampled_to_the_students(files: dict[str, str]) -> None:
    teacher = TimmTeacher(CONV, files[CONV], (96, 128))
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        own, found = teacher.feature_map(images), teacher(images)
    assert own.shape[2:] == (3, 4)  # stride 32
    assert found.shape == (2, 6 * 8, teacher.dim)
    resampled = F.interpolate(own, size=(6, 8), mode="bilinear", antialias=True)
    assert torch.equal(found, resampled.flatten(2).transpose(1, 2))
    assert resample_map(torch.ones(1, 5, 7, 7), (3, 4)).allclose(torch.ones(1))


def test_it_is_frozen_follows_the_device_and_is_no_part_of_the_state(files: dict[str, str]) -> None:
    teacher = TimmTeacher(VIT, files[VIT], (96, 96)).train()
    assert not teacher.state_dict()
    assert not list(teacher.parameters())
    net = teacher._frozen[0]
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    teacher.double()
    assert next(net.parameters()).dtype == torch.float64


def test_those_with_short_names_are_models_of_timms_with_their_own_normalisation() -> None:
    for name, model in TIMM_NAMES.items():
        assert timm.is_model(model)
        cfg = timm.get_pretrained_cfg(model)
        assert cfg.hf_hub_id
        assert (cfg.mean == IMAGENET_MEAN) == (name != "clip")


def test_dino_from_a_local_file_has_the_base_models_width(tmp_path: Path) -> None:
    net = timm.create_model(TIMM_NAMES["dino"], num_classes=0)
    torch.save(net.state_dict(), tmp_path / "dino.pth")
    assert TimmTeacher("dino", str(tmp_path / "dino.pth"), (32, 32)).dim == 768


def test_what_can_not_teach_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no teacher 'vit_tinny'"):
        TimmTeacher("vit_tinny", "", (96, 96))
    with pytest.raises(CheckpointError, match="weights of another model"):
        TimmTeacher(VIT, files[CONV], (96, 96))
    half = {name: value for name, value in torch.load(files[VIT], weights_only=True).items() if "blocks.1" not in name}
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(UserError, match="does not fit the teacher"):
        TimmTeacher(VIT, str(tmp_path / "half.pth"), (96, 96))
    with pytest.raises(UserError, match="gives a 1x1 grid"):
        TimmTeacher(CONV, files[CONV], (32, 32))
    mixer = "mixer_s16_224"
    torch.save(timm.create_model(mixer).state_dict(), tmp_path / "mixer.pth")
    with pytest.raises(UserError, match="gives no features for pictures of 96x96"):
        TimmTeacher(mixer, str(tmp_path / "mixer.pth"), (96, 96))
