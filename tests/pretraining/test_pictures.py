"""Reconstruction pictures: a perfect prediction gives back the picture, and what is visible stays untouched."""

import numpy as np
import pytest
import torch

from convmae.engine.images import IMAGENET_MEAN, IMAGENET_STD
from convmae.pretraining.pictures import fill_in, hide_removed, reconstruction_strip

PATCH = 16


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def target(image: torch.Tensor, norm_pix: bool) -> torch.Tensor:
    """The target of MAE, patch by patch: [L, p*p*3], rows from left to right and top to bottom, pixels (p, p, 3)."""
    height, width = image.shape[1:]
    padded = torch.zeros(3, -(-height // PATCH) * PATCH, -(-width // PATCH) * PATCH)
    padded[:, :height, :width] = image
    rows = []
    for top in range(0, padded.shape[1], PATCH):
        for left in range(0, padded.shape[2], PATCH):
            values = padded[:, top : top + PATCH, left : left + PATCH].permute(1, 2, 0).reshape(-1)
            if norm_pix:
                values = (values - values.mean()) / (values.var(unbiased=True) + 1e-6) ** 0.5
            rows.append(values)
    return torch.stack(rows)


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 64), (48, 48), (40, 75)])
def test_a_perfect_prediction_gives_back_the_picture(height: int, width: int, norm_pix: bool) -> None:
    image = picture(height, width)
    prediction = target(image, norm_pix)
    everything = torch.ones(len(prediction))
    torch.testing.assert_close(fill_in(image, everything, prediction, norm_pix), image, rtol=0, atol=1e-5)
    half = (torch.arange(len(prediction)) % 2).float()
    torch.testing.assert_close(fill_in(image, half, prediction, norm_pix), image, rtol=0, atol=1e-5)


def test_only_removed_patches_change() -> None:
    image = picture(32, 48)
    mask = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    filled = fill_in(image, mask, torch.full((6, PATCH * PATCH * 3), 9.0), norm_pix=False)
    changed = (filled != image).all(dim=0)
    assert changed[:16, 16:32].all()
    assert changed[16:, 32:].all()
    assert changed.sum() == 2 * PATCH * PATCH
    assert (filled[:, :16, 16:32] == 9).all()


def test_the_colours_of_a_prediction_stay_in_their_channels() -> None:
    red = torch.zeros(1, PATCH, PATCH, 3)
    red[..., 0] = 1
    filled = fill_in(picture(16, 16), torch.ones(1), red.reshape(1, -1), norm_pix=False)
    assert (filled[0] == 1).all()
    assert (filled[1:] == 0).all()


def test_a_normalised_prediction_takes_brightness_and_contrast_from_the_input() -> None:
    """A prediction that says nothing gives each patch's own mean; its scale is the patch's own deviation."""
    image = picture(16, 32) * 3 + 2
    flat = fill_in(image, torch.ones(2), torch.zeros(2, PATCH * PATCH * 3), norm_pix=True)
    for left in (0, 16):
        patch = image[:, :, left : left + 16]
        assert flat[:, :, left : left + 16].std() < 1e-6
        torch.testing.assert_close(flat[:, :, left : left + 16].mean(), patch.mean())
    ones = fill_in(image, torch.ones(2), torch.ones(2, PATCH * PATCH * 3), norm_pix=True)
    torch.testing.assert_close((ones - flat)[0, 0, 0], image[:, :, :16].std(), rtol=1e-4, atol=0)


def test_what_is_removed_is_grey_in_the_masked_input() -> None:
    image = picture(16, 32)
    hidden = hide_removed(image, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(hidden[:, :, 16:], image[:, :, 16:])
    shown = hidden[:, :, :16] * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    assert shown.std() < 1e-6


def test_the_strip_shows_four_panels_and_a_row_for_each_group() -> None:
    image = picture(64, 64)
    prediction = target(image, norm_pix=True)
    mask = (torch.arange(16) % 4 != 0).float()
    one = reconstruction_strip(image, mask, prediction, norm_pix=True)
    assert one.width > 3.9 * 288
    four = reconstruction_strip(image, torch.stack([mask] * 4), torch.stack([prediction] * 4), norm_pix=True)
    assert four.width == one.width
    assert 4 * 288 < four.height <= 4 * one.height  # the long captions stand once


def test_the_strip_shows_the_reconstruction_itself() -> None:
    """Of a perfect prediction the last two panels equal the first, in the pixels that are written."""
    image = (torch.rand(3, 288, 288, generator=torch.Generator().manual_seed(1)) - 0.45) / 0.225
    everything = torch.ones(18 * 18)
    strip = np.asarray(reconstruction_strip(image, everything, target(image, True), norm_pix=True), np.int64)
    band = strip.shape[0] - 288
    lefts = [round(index * (strip.shape[1] - 288) / 3) for index in range(4)]
    panels = [strip[band:, left : left + 288] for left in lefts]
    assert np.abs(panels[2] - panels[0]).max() <= 1
    assert np.abs(panels[3] - panels[0]).max() <= 1
    assert np.ptp(panels[1]) < 5  # all removed


def test_the_picture_says_that_statistics_are_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    from convmae.pretraining import pictures

    real = pictures.row
    monkeypatch.setattr(pictures, "row", lambda images, captions: said.extend(captions) or real(images, captions))
    image = picture(32, 32)
    reconstruction_strip(image, torch.ones(4), target(image, True), norm_pix=True)
    assert sum("the input's own mean and contrast" in caption for caption in said) == 2
    said.clear()
    reconstruction_strip(image, torch.ones(4), target(image, False), norm_pix=False)
    assert not any("own mean" in caption for caption in said)
