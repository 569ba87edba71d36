"""The check of plain pictures reads every one, and says whether a run would take them."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from convmae.tools import check_data


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "nested").mkdir(parents=True)
    for number in range(10):
        name = f"nested/{number}.jpg" if number % 2 else f"{number}.jpg"
        Image.effect_noise((40 + number // 5, 30), 60).convert("RGB").save(folder / name)
    return folder


def check(folder: Path, *options: str) -> tuple[int, dict[str, list[str]]]:
    """The exit status, and the messages by kind."""
    argv = ["pictures", str(folder), "--work-dir", str(folder.parent / "check"), "--overwrite"]
    status = check_data.main([*argv, *(["--cfg-options", *options] if options else [])])
    kinds: dict[str, list[str]] = {}
    for fault in json.loads((folder.parent / "check/metrics.json").read_text())["pretraining"]["faults"]:
        kinds.setdefault(fault["kind"], []).append(fault["message"])
    return status, kinds


def test_pictures_in_order_pass(pictures: Path, capsys: pytest.CaptureFixture) -> None:
    assert check(pictures) == (0, {})
    assert "10 pictures, long side 40 to 41, median 40 pixels" in capsys.readouterr().out
    numbers = json.loads((pictures.parent / "check/metrics.json").read_text())["pretraining"]
    assert numbers["sizes"] == {"40x30": 5, "41x30": 5}
    assert numbers["modes"] == {"RGB": 10}


def test_every_picture_is_read_to_its_end_and_copies_are_named(pictures: Path) -> None:
    shutil.copy(pictures / "0.jpg", pictures / "nested" / "copy.jpg")
    whole = (pictures / "nested" / "3.jpg").read_bytes()
    middle = len(whole) // 2
    # Its header and its end mark stay.
    (pictures / "nested" / "3.jpg").write_bytes(whole[:middle] + b"\xff\xda" * 10 + whole[middle + 20 :])
    (pictures / "2.jpg").write_bytes(b"")
    status, kinds = check(pictures)
    assert status == 1  # two of eleven are more than one of a thousand
    assert {Path(message.split()[0]).name for message in kinds["unreadable pictures"]} == {"2.jpg", "3.jpg"}
    assert len(kinds["pictures that are there more than once"]) == 1
    assert check(pictures, "data.bad_share=0.2")[0] == 0
    assert check(pictures, "data.bad_share=0.2", "data.on_bad_image=stop")[0] == 1


def test_a_folder_that_is_not_there_is_a_fault(pictures: Path) -> None:
    status, kinds = check(pictures / "nowhere")
    assert status == 1
    assert "There is no folder" in kinds["folders that can't be used"][0]
