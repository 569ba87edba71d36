"""Labelling a picture from windows, sizes and mirror images, against mmseg's parts and plain code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.datasets.transforms import Resize
from mmseg.models import SegTTAModel
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from convmae.segmentation.model import inference
from convmae.segmentation.model.inference import fit, label, resized_bands, slide


class Network(BaseModel):
    """Scores of five classes that follow from a pixel's surroundings and, as attention's do, from the whole picture."""

    out_channels = 5

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.conv(x)
        return scores + scores.mean(dim=(2, 3), keepdim=True)


@pytest.fixture
def score() -> Network:
    return Network().requires_grad_(False)


def pictures(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))


def probabilities(score: Network, x: Tensor, scale: tuple[int, int], factor: float, mirrored: bool) -> Tensor:
    """Scores of one copy at the picture's size, as plainly as can be."""
    height, width = x.shape[2:]
    long, short = (int(side * factor) for side in scale)
    grow = min(long / max(height, width), short / min(height, width))
    size = (int(height * grow + 0.5), int(width * grow + 0.5))
    copy = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    scores = score(copy.flip(3)).flip(3) if mirrored else score(copy)
    return F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)


def test_slide_with_one_window_equals_whole(score: Network) -> None:
    x = pictures(24, 24)
    assert torch.equal(slide(score, x, 24, 7), score(x))


@pytest.mark.parametrize("size", [(24, 24), (25, 60), (53, 71), (7, 40), (1, 50)])
@pytest.mark.parametrize(("crop", "stride"), [(24, 24), (24, 17), (24, 5)])
def test_slide_averages_every_window_over_a_pixel_however_many_are_computed_at_a_time(
    score: Network, size: tuple[int, int], crop: int, stride: int
) -> None:
    x = pictures(*size)
    total, times = torch.zeros(2, 5, *size), torch.zeros(size)
    sides = [min(crop, side) for side in size]  # as mmseg's: a window is no larger than the picture
    ends = [
        sorted({min(end, side) for end in range(window, side + stride, stride)})
        for window, side in zip(sides, size, strict=True)
    ]
    for bottom in ends[0]:
        for right in ends[1]:
            part = (..., slice(bottom - sides[0], bottom), slice(right - sides[1], right))
            total[part] += score(x[part])
            times[part] += 1
    assert times.min() >= 1
    expected = total / times
    for batch in (1, 4, 100):
        torch.testing.assert_close(slide(score, x, crop, stride, batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(30, 40), (31, 9), (200, 300), (1, 7), (64, 40)])
def test_bands_of_resized_scores_make_the_whole(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(2, 5, 30, 40)
    expected = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    for most in (2**24, 4000, 1):
        monkeypatch.setattr(inference, "_BAND", most)
        bands = list(resized_bands(scores, size))
        assert all(band.numel() <= max(most, 2 * 5 * size[1]) for _, band in bands)
        assert [row for rows, _ in bands for row in range(rows.start, rows.stop)] == list(range(size[0]))
        torch.testing.assert_close(torch.cat([band for _, band in bands], dim=2), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 48), (333, 500), (500, 333), (12, 100)])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.75])
def test_pictures_are_resized_as_mmseg_does(size: tuple[int, int], factor: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = Resize(scale=(int(240 * factor), int(80 * factor)), keep_ratio=True)({"img": image})["img"]
    ours = fit(torch.from_numpy(image).permute(2, 0, 1)[None].float(), (240, 80), factor)[0].permute(1, 2, 0)
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).max() <= 1  # theirs are whole numbers


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (3000, 2)])
def test_the_thinnest_picture_keeps_a_pixel(size: tuple[int, int]) -> None:
    assert min(fit(pictures(*size), (64, 64), 0.5).shape) > 0


def test_one_copy_is_labelled_by_its_scores(score: Network) -> None:
    x = pictures(37, 50)
    assert torch.equal(label(score, x), score(x).argmax(1))
    found = label(score, x, (100, 60), [1.5])
    expected = probabilities(score, x, (100, 60), 1.5, False).argmax(1)
    assert (found == expected).float().mean() > 0.999


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("factors", [[1.0], [0.5, 1.0, 1.75]])
def test_copies_are_averaged_as_by_mmseg(score: Network, factors: list[float], flip: bool) -> None:
    x = pictures(37, 50)
    copies = [
        [
            SegDataSample(
                seg_logits=PixelData(data=probabilities(score, x[index : index + 1], (60, 40), factor, mirrored)[0]),
                metainfo={"img_path": ""},
            )
            for factor in factors
            for mirrored in (False, True)[: 1 + flip]
        ]
        for index in range(len(x))
    ]
    merged = SegTTAModel(module=score).merge_preds(copies)
    expected = torch.cat([sample.pred_sem_seg.data for sample in merged])
    found = label(score, x, (60, 40), factors, flip)
    assert (found == expected).float().mean() > 0.999
    assert len(expected.unique()) == 5  # no picture of one colour, which anything would agree with


def test_a_mirrored_picture_has_mirrored_labels(score: Network) -> None:
    x = pictures(33, 50)
    once = label(score, x, (60, 40), [0.75, 1.0], flip=True)
    assert torch.equal(label(score, x.flip(3), (60, 40), [0.75, 1.0], flip=True), once.flip(2))
    assert not torch.equal(label(score, x.flip(3)), label(score, x).flip(2))  # by itself the network has sides
