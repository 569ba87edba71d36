"""A share of the training pictures, whose pixels alone are counted."""

from pathlib import Path

from convmae.segmentation.checks.splits import check_split
from convmae.segmentation.config import SegmentationDataOptions


def test_a_share_is_of_the_training_pictures_and_its_pixels_are_counted(ade_root: Path) -> None:
    found = {
        share: check_split("training", SegmentationDataOptions(root=str(ade_root), share=share), 3, None)
        for share in (0.33, 0.5, 1.0)
    }
    assert [len(one.pairs) for one in found.values()] == [2, 3, 6]
    assert set(found[0.33].pairs) < set(found[0.5].pairs) < set(found[1.0].pairs)
    assert found[0.5].good == found[0.5].pairs
    assert found[0.5].pixels.sum() + found[0.5].ignored == 3 * 48 * 40
    validation = check_split("validation", SegmentationDataOptions(root=str(ade_root), share=0.33), 3, None)
    assert len(validation.pairs) == 3
