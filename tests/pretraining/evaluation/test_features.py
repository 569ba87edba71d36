"""Principal components of feature maps: as an SVD gives them, the same each time, and drawn where they belong."""

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.backbones import ConvViT, ViT
from convmae.pretraining.evaluation import features
from convmae.pretraining.evaluation.features import FeatureMap, feature_maps, feature_strip, principal_components

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 1, 2), "num_heads": 2}


def values(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A map whose channels differ in mean and spread and depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator)
    return torch.einsum("ij,jhw->ihw", mixing, torch.randn(channels, height, width, generator=generator)) + 50


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    given = values(6, 5, 7)
    components, share = principal_components(given)
    rows = given.flatten(1).T.double().numpy()
    left, singular, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    expected = (left[:, :3] * singular[:3]).T.reshape(3, 5, 7)
    for found, wanted in zip(components.numpy(), expected, strict=True):
        assert min(np.abs(found - wanted).max(), np.abs(found + wanted).max()) < 1e-3
    assert share == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum(), abs=1e-6)


def test_signs_follow_from_the_map_alone() -> None:
    given = values(6, 5, 7)
    components, _ = principal_components(given)
    torch.testing.assert_close(principal_components(-given)[0], -components)  # the directions are the same
    shuffled = given[torch.tensor([3, 1, 5, 0, 2, 4])]
    torch.testing.assert_close(principal_components(shuffled)[0], components, rtol=0, atol=1e-3)
    torch.testing.assert_close(principal_components(given + 100)[0], components, rtol=0, atol=1e-3)


def test_a_component_grows_with_its_heaviest_channel() -> None:
    ramp = torch.arange(12.0).view(3, 4)
    components, share = principal_components(torch.stack([-3 * ramp, ramp]))
    assert components[0].flatten().diff().lt(0).all()
    assert (components[1:] == 0).all()
    assert share == pytest.approx(1)


@pytest.mark.parametrize("shape", [(4, 3, 3), (4, 1, 1), (2, 1, 3), (1, 2, 2)])
def test_what_does_not_vary_has_no_colours(shape: tuple[int, int, int]) -> None:
    components, share = principal_components(torch.full(shape, 0.1))
    assert components.shape == (3, *shape[1:])
    assert (components == 0).all()
    assert share == 0


def test_an_outlier_does_not_hide_the_rest() -> None:
    ramp = torch.linspace(0, 1, 400).view(20, 20)
    ramp[10, 10] = 1000.0
    shown = np.asarray(features._colours(ramp.expand(3, -1, -1), 1, 20, 20))[..., 0]
    assert shown[0].max() < 40
    assert shown[19].min() > 220


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 70), (16, 33)])
def test_positions_are_squares_of_their_stride_on_the_picture(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Image.Image] = []
    said: list[str] = []
    real = features.row
    monkeypatch.setattr(
        features,
        "row",
        lambda panels, captions: drawn.extend(panels) or said.extend(captions) or real(panels, captions),
    )
    monkeypatch.setattr(features, "panel", lambda panel: panel)
    image = torch.zeros(3, height, width)
    maps = [
        FeatureMap(f"E{stage}", stride, values(5, -(-height // stride), -(-width // stride), seed=stage))
        for stage, stride in ((1, 4), (2, 8), (3, 16))
    ]
    feature_strip(image, maps)
    assert said[0] == "input"
    for (name, stride, of_map), panel, caption in zip(maps, drawn[1:], said[1:], strict=True):
        assert f"{name}, stride {stride}, 5 channels" in caption
        assert f"{100 * principal_components(of_map)[1]:.0f} %" in caption
        assert panel.size == (width, height)
        colours = np.asarray(panel)
        for top in range(0, height, stride):
            for left in range(0, width, stride):
                square = colours[top : top + stride, left : left + stride].reshape(-1, 3)
                assert (square == square[0]).all()


def test_maps_are_the_encoders_own_for_any_size() -> None:
    torch.manual_seed(0)
    image = torch.randn(3, 50, 70)
    encoder = ConvViT(DIMS, num_classes=0, img_size=64).eval()
    maps = feature_maps(encoder, image)
    assert [(found.name, found.stride, tuple(found.values.shape)) for found in maps] == [
        ("E1", 4, (8, 13, 18)),
        ("E2", 8, (12, 7, 9)),
        ("E3", 16, (16, 4, 5)),
    ]
    torch.testing.assert_close(maps[2].values, encoder.forward_pyramid(image[None])[2][0])
    plain = ViT({"embed_dim": 16, "depth": 2, "num_heads": 2}, num_classes=0, img_size=64).eval()
    (found,) = feature_maps(plain, image)
    assert (found.stride, found.values.shape) == (16, (16, 4, 5))
    torch.testing.assert_close(found.values[:, 2, 3], plain.forward_features(image[None])[0, 2 * 5 + 3])
