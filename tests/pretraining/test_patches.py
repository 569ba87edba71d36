"""Images to patches and back."""

from __future__ import annotations

import pytest
import torch

from convmae.pretraining.patches import pad_to_patches, patch_statistics, patchify, unpatchify


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 16), (33, 47), (1, 1)])
def test_patches_go_back_to_the_image(height: int, width: int) -> None:
    images = torch.randn(2, 3, height, width)
    patches = patchify(pad_to_patches(images))
    assert patches.shape == (2, -(-height // 16) * -(-width // 16), 768)
    assert torch.equal(unpatchify(patches, height, width), images)


def test_a_patch_is_a_square_of_pixels_channel_last() -> None:
    images = torch.randn(1, 3, 32, 48)
    patch = patchify(images)[0, 4].view(16, 16, 3)  # second row, second column
    assert torch.equal(patch, images[0, :, 16:32, 16:32].permute(1, 2, 0))


def test_a_wrong_number_of_patches_is_named() -> None:
    with pytest.raises(ValueError, match="5 patches; an image of 32x32 pixels has 2x2"):
        unpatchify(torch.zeros(1, 5, 768), 32, 32)


def test_normalised_patches_have_mean_zero_and_unbiased_deviation_one() -> None:
    patches = torch.randn(2, 4, 768) * 3 + 5
    mean, deviation = patch_statistics(patches)
    normalised = (patches - mean) / deviation
    assert torch.allclose(normalised.mean(-1), torch.zeros(2, 4), atol=1e-5)
    assert torch.allclose(normalised.std(-1), torch.ones(2, 4), atol=1e-4)
    flat = torch.full((1, 1, 768), 2.0)
    assert patch_statistics(flat)[1].item() == pytest.approx(1e-3)
