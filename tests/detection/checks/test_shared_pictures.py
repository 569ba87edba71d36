"""Pictures that training and validation share are said in a run's log, on its page and by the check of data."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_detector import tiny_config

from convmae.detection.checks.data_check import check_data
from convmae.detection.checks.preflight import read_splits
from convmae.engine import faults
from convmae.engine.faults import Effect

SHARED, SAME = "pictures that are training pictures, too", "splits that are one and the same"


@pytest.fixture
def two_splits(split: Path) -> Path:
    """A validation split whose pictures are others, but for one that is a copy under another name."""
    content = json.loads((split / "instances.json").read_text())
    shutil.copytree(split / "images", split / "val")
    for path in (split / "val").rglob("*.png"):
        if path.name != "1.png":
            path.write_bytes(path.read_bytes() + b"other")  # after a PNG's end, where no reader looks
    for image in content["images"]:
        if image["file_name"] == "1.png":
            (split / "val" / "1.png").rename(split / "val" / "one.png")
            image["file_name"] = "one.png"
    (split / "val.json").write_text(json.dumps(content))
    return split


def test_a_copy_is_warned_of(
    two_splits: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("convmae"), "propagate", True)
    config = tiny_config(two_splits, "data.val_images=val", "data.val_annotations=val.json")
    _, val = read_splits(config.data, masks=True)
    (remark,) = [remark for remark in val.remarks if remark.kind == SHARED]
    assert (remark.effect, remark.count) == (Effect.DOUBTFUL, 1)
    assert remark.first[0].startswith(f"{two_splits / 'val' / 'one.png'} holds the same bytes as")
    assert f"validation data: 1 {SHARED}" in caplog.text
    # All that the check decodes are the training pictures, whatever follows a file's end.
    faults = [str(fault) for fault in check_data(config)[1].faults if fault.kind == SHARED]
    assert len(faults) == len(val.images)
    assert all("holds the same pixels as" in fault for fault in faults)


@pytest.mark.parametrize("overrides", [(), ("data.limit=2",)], ids=["one file", "a limit"])
def test_training_on_the_validation_pictures_is_said_once(
    split: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(faults, "log", SimpleNamespace(warning=said.append))
    read_splits(tiny_config(split, *overrides).data, masks=True)
    assert sum(SAME in line for line in said) == 1
    assert not any(SHARED in line for line in said)
