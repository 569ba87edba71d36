"""Reconstruction pictures: a perfect prediction gives back the picture, and what is visible stays untouched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.engine.pictures.images import IMAGENET_MEAN, IMAGENET_STD
from convmae.pretraining import ConvMAE, FastConvMAE
from convmae.pretraining.evaluation import reconstructions
from convmae.pretraining.evaluation.reconstructions import (
    ACROSS,
    GREY,
    PANEL,
    Views,
    fill_in,
    group_panels,
    group_sheet,
    hide_removed,
    load_picture,
    put_together,
    reconstruct,
    reconstruction_strip,
)

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


Row = tuple[list[Image.Image], list[str]]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows of panels and captions that pictures are made of, as they are drawn."""
    drawn: list[Row] = []
    real = reconstructions.row
    monkeypatch.setattr(
        reconstructions, "row", lambda images, captions: drawn.append((images, captions)) or real(*drawn[-1])
    )
    return drawn


def complementary(groups: int, tokens: int) -> torch.Tensor:
    shown = torch.randperm(tokens, generator=torch.Generator().manual_seed(3)) % groups
    return (shown != torch.arange(groups)[:, None]).float()


def perfect(groups: int, side: int = PANEL, norm_pix: bool = True) -> Views:
    """Perfect predictions of a picture that is shown at its own size, by complementary groups; one: of half a picture."""
    values = torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))
    image = (values - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    mask = complementary(max(groups, 2), (side // PATCH) ** 2)[:groups]
    return Views(image, mask, target(image, norm_pix).expand(groups, -1, -1), norm_pix)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.int64)


def grey(picture: Image.Image) -> np.ndarray:
    return (np.abs(pixels(picture) - round(255 * GREY)) <= 1).all(axis=2)


def test_the_strip_of_one_view_shows_four_panels_and_says_what_they_are(rows: list[Row]) -> None:
    views = perfect(1)
    strip = reconstruction_strip(views)
    ((panels, captions),) = rows
    assert strip.width >= 4 * PANEL
    assert captions[0] == "input"
    assert "visible: 50 %" in captions[1]
    assert "the input's own mean and contrast" in captions[2]
    for panel in (panels[2], panels[3]):
        assert np.abs(pixels(panel) - pixels(panels[0])).max() <= 1
    assert grey(panels[1]).mean() == pytest.approx(0.5, abs=0.01)
    reconstruction_strip(views._replace(norm_pix=False))
    assert not any("own mean" in caption for caption in rows[1][1])


def test_the_strip_of_several_views_ends_with_the_whole_put_together(rows: list[Row]) -> None:
    views = perfect(4)
    wrong_where_visible = torch.where(views.mask[..., None] > 0, views.prediction, 1e4)
    reconstruction_strip(views._replace(prediction=wrong_where_visible))
    ((panels, captions),) = rows
    assert "group 1 of 4" in captions[1]
    assert "predictions only" in captions[3]
    assert np.abs(pixels(panels[3]) - pixels(panels[0])).max() <= 1


@pytest.mark.parametrize(("groups", "lines"), [(2, 1), (4, 1), (5, 1), (6, 2), (10, 2), (13, 3)])
def test_the_sheet_shows_every_group_once_in_lines_that_are_not_too_long(
    groups: int, lines: int, rows: list[Row]
) -> None:
    views = perfect(groups)
    sheet = group_sheet(views)
    assert sheet.width <= ACROSS * 1.03 * PANEL
    assert len(rows) == 2 * lines
    upper, lower = ([panel for panels, _ in rows[level::2] for panel in panels] for level in (0, 1))
    upper_captions, lower_captions = ([text for _, texts in rows[level::2] for text in texts] for level in (0, 1))
    assert upper_captions == ["input", *(f"visible to group {number + 1}" for number in range(groups))]
    assert [caption.startswith("reconstruction by group") for caption in lower_captions] == [False] + [True] * groups
    assert sum(~grey(panel) for panel in upper[1:]).min() == 1  # each pixel is visible to one group
    assert sum(~grey(panel) for panel in upper[1:]).max() == 1
    for panel in lower:
        assert np.abs(pixels(panel) - pixels(upper[0])).max() <= 1


@pytest.mark.parametrize("groups", [2, 7])
def test_a_page_shows_a_pair_of_panels_for_all_groups_and_for_each(groups: int) -> None:
    views = perfect(groups)
    whole, *each = group_panels(views)
    assert (whole[1][0], len(each)) == ("input", groups)
    for number, (panels, captions) in enumerate(each, 1):
        assert captions[0] == f"visible to group {number}"
        assert captions[1].startswith(f"reconstruction by group {number}")
        assert (~grey(panels[0])).mean() == pytest.approx(1 / groups, abs=0.01)
        for panel in (panels[1], whole[0][1]):
            assert np.abs(pixels(panel) - pixels(whole[0][0])).max() <= 1


def test_each_patch_put_together_is_the_mean_of_those_that_did_not_see_it() -> None:
    image, mask = picture(48, 64), complementary(3, 12)
    prediction = torch.randn(3, 12, PATCH * PATCH * 3, generator=torch.Generator().manual_seed(2))
    together = put_together(Views(image, mask, prediction, norm_pix=False))
    for token in range(12):
        guesses = [prediction[group, token] for group in range(3) if mask[group, token] == 1]
        assert len(guesses) == 2
        top, left = PATCH * (token // 4), PATCH * (token % 4)
        expected = (sum(guesses) / 2).reshape(PATCH, PATCH, 3).permute(2, 0, 1)
        torch.testing.assert_close(together[:, top : top + PATCH, left : left + PATCH], expected)


@pytest.mark.parametrize(("width", "height"), [(100, 60), (60, 100), (64, 64), (20, 30)])
def test_pictures_are_cut_to_a_square_or_shown_whole(tmp_path: Path, width: int, height: int) -> None:
    across = np.broadcast_to(np.linspace(0, 255, width, dtype=np.uint8), (height, width))
    Image.fromarray(np.stack([across] * 3, axis=2)).save(tmp_path / "ramp.png")
    square, whole = (load_picture(tmp_path / "ramp.png", 48, whole=whole) for whole in (False, True))
    assert square.shape == (3, 48, 48)
    assert min(whole.shape[1:]) == 48
    assert whole.shape[2] / whole.shape[1] == pytest.approx(width / height, rel=0.02)
    assert whole[0].max() > 2.1  # white and black at the ends, in ImageNet's normalisation
    assert whole[0].min() < -2.0
    middle = (whole.shape[2] - 48) // 2
    assert whole[0, :48, middle : middle + 48].mean() == pytest.approx(float(square[0].mean()), abs=0.03)


@pytest.mark.parametrize("cls", [ConvMAE, FastConvMAE])
def test_reconstruct_gives_what_the_model_makes_of_a_seeded_mask(cls: type[ConvMAE]) -> None:
    torch.manual_seed(0)
    model = cls({"embed_dims": (8, 16, 16), "depths": (1, 1, 1), "num_heads": 2}, 64, decoder_dim=32, decoder_depth=1)
    image = picture(40, 75)  # 3 x 5 patches
    views = reconstruct(model, image, 0.75, seed=5)
    assert views.mask.shape == (4 if cls is FastConvMAE else 1, 15)
    assert (views.mask[0] == 0).sum() in (3, 4)
    assert torch.equal(views.mask, reconstruct(model, image, 0.75, seed=5).mask)
    assert not torch.equal(views.mask, reconstruct(model, image, 0.75, seed=6).mask)
    noise = torch.rand(1, 15, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(views.prediction, model(image[None], 0.75, noise).pred)
    with pytest.raises(ValueError, match="mask_ratio"):
        reconstruct(model, image, 1.0)
