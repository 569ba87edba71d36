"""A share of the training pictures: what is trained on, and what the log says of it."""

import logging
from pathlib import Path

import pytest

from convmae.detection.checks.preflight import read_splits
from convmae.detection.config import DetectionDataOptions
from convmae.detection.data.dataset import TrainSet
from convmae.engine.errors import UserError
from convmae.engine.pictures import scenes
from convmae.engine.shares import take_share


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.generate(tmp_path_factory.mktemp("scenes") / "made", train=12, val=2, size=64).coco


def names(root: Path, **given: float) -> set[str]:
    options = DetectionDataOptions(root=str(root), **given)  # type: ignore[arg-type]
    train, val = read_splits(options, masks=True)
    assert len(val.images) == 2 or options.limit  # a share is of the training pictures
    data = TrainSet(train, options, masks=True)
    return {data.name(number).name for number in range(len(data))}


def test_a_run_trains_on_the_share(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("convmae"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="convmae"):
        few, half, all_of_them = (names(root, share=share) for share in (0.25, 0.5, 1.0))
    told = {message for message in caplog.messages if "training pictures are used" in message}
    assert told == {
        f"data: {count} of 12 training pictures are used, data.share={share} drawn by data.share_seed=0"
        for count, share in ((3, "0.25"), (6, "0.5"))
    }
    assert [len(few), len(half), len(all_of_them)] == [3, 6, 12]
    assert few < half < all_of_them
    assert few != names(root, share=0.25, share_seed=1)


def test_limit_is_of_the_share(root: Path) -> None:
    assert len(names(root, share=0.5, limit=4)) == 4
    assert names(root, share=0.5, limit=6) == names(root, share=0.5)


def test_a_share_is_of_pictures_that_are_trained_on_and_holds_an_object(split: Path) -> None:
    places = {"train_images": "images", "train_annotations": "instances.json"}
    same = places | {key.replace("train", "val"): value for key, value in places.items()}
    options = DetectionDataOptions(root=str(split), share=0.67, keep_empty=False, **same)  # type: ignore[arg-type]
    train, _ = read_splits(options, masks=True)
    assert len(train.images) == 2  # two thirds of the three with objects
    assert all(train.training_objects(image) for image in train.images)
    files = ["0.png", "1.png", "deep/2.png", "3.png"]  # the last without objects
    empty = next(seed for seed in range(40) if take_share(files, 0.25, seed, str) == files[3:])
    one = DetectionDataOptions(root=str(split), share=0.25, share_seed=empty, **same)  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=rf"the 1 pictures that data\.share=0\.25 takes by data\.share_seed={empty} hold no object"
    ):
        read_splits(one, masks=True)
