"""What is said of the values of pictures beyond 8 bits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convmae.engine.faults import Effect, Fault
from convmae.engine.pictures import value_ranges
from convmae.engine.pictures.reading import RGB, Reading
from convmae.engine.pictures.value_ranges import check_ranges

LITTLE = "splits that use less than a tenth of their range"


def folder(path: Path, dtype: type, low: float, high: float, count: int = 3) -> list[Path]:
    """Pictures of evenly spread values."""
    path.mkdir()
    names = [path / f"{number}.tif" for number in range(count)]
    for number, name in enumerate(names):
        values = np.random.default_rng(number).uniform(low, high, (20, 31))
        Image.fromarray(values.astype(dtype)).save(name)
    return names


def found(paths: list[Path], reading: Reading = RGB) -> dict[str, list[Fault]]:
    faults: list[Fault] = []
    check_ranges(paths, reading, faults.append)
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    return kinds


@pytest.mark.parametrize(
    ("high", "advice"), [(250, "[0,255]"), (260, "[0,511]"), (4095, "[0,4095]"), (6500, "[0,8191]")]
)
def test_less_than_a_tenth_of_16_bits_is_remarked_with_the_range_to_give(
    tmp_path: Path, high: int, advice: str
) -> None:
    paths = folder(tmp_path / "a", np.uint16, 0, high)
    (fault,) = found(paths)[LITTLE]
    assert fault.effect is Effect.DOUBTFUL
    assert f"data.range={advice}" in str(fault)
    assert "0 to 65535" in str(fault)
    black, white = (float(value) for value in advice.strip("[]").split(","))
    assert not found(paths, Reading(range=(black, white)))


def test_what_uses_its_range_is_not_remarked(tmp_path: Path) -> None:
    assert not found(folder(tmp_path / "a", np.uint16, 20000, 27000))
    assert not found(folder(tmp_path / "b", np.uint8, 0, 9))  # of 8 bits
    dim = folder(tmp_path / "c", np.uint16, 0, 300)
    assert not found([*dim, *folder(tmp_path / "d", np.uint16, 0, 60000)])  # a dark frame among others


def test_a_hot_pixel_hides_nothing(tmp_path: Path) -> None:
    (path,) = folder(tmp_path / "a", np.uint16, 0, 4095, 1)
    values = np.asarray(Image.open(path)).repeat(4, 0).repeat(4, 1).copy()
    values[0, 0] = 65535
    Image.fromarray(values).save(path)
    assert LITTLE in found([path])


def test_values_beyond_the_range_are_remarked(tmp_path: Path) -> None:
    paths = folder(tmp_path / "a", np.uint16, 0, 10000)
    (fault,) = found(paths, Reading(range=(0, 1)))["splits whose values are mostly beyond data.range"]
    assert "100 % of them are beyond" in str(fault)
    assert not found(paths, Reading(range=(1000, 9000)))  # what is beyond may be cut off on purpose


def test_floats_stop_and_say_their_range(tmp_path: Path) -> None:
    paths = folder(tmp_path / "a", np.float32, 0, 200)
    ((kind, (fault,)),) = found(paths).items()
    assert (kind, fault.effect) == ("pictures of unknown range", Effect.STOPS)
    assert "data.range=[0,200]" in str(fault)
    assert not found(paths, Reading(range=(0, 200)))


def test_what_is_no_number_is_remarked(tmp_path: Path) -> None:
    values = np.full((10, 10), 0.5, np.float32)
    values[:2], values[5] = np.nan, np.linspace(0, 1, 10)
    Image.fromarray(values).save(tmp_path / "a.tif")
    (fault,) = found([tmp_path / "a.tif"], Reading(range=(0, 1)))["pictures with values that are no numbers"]
    assert fault.effect is Effect.DOUBTFUL
    assert "20.00 %" in str(fault)


def test_a_range_that_concerns_no_picture_is_remarked(tmp_path: Path) -> None:
    kind, reading = "splits of pictures that data.range is not for", Reading(range=(0, 4095))
    flat = folder(tmp_path / "a", np.uint8, 0, 255)
    assert [fault.effect for fault in found(flat, reading)[kind]] == [Effect.DOUBTFUL]
    mixed = [*flat, *folder(tmp_path / "b", np.uint16, 0, 4095)]
    assert [fault.effect for fault in found(mixed, reading)[kind]] == [Effect.NOTE]
    assert "3 of 6" in str(found(mixed, reading)[kind][0])


def test_files_of_several_frames_are_remarked(tmp_path: Path) -> None:
    kind = "files of several frames"
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    for ending in ("gif", "tif", "png", "webp"):
        path = tmp_path / f"several.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert [fault.effect for fault in found([path])[kind]] == [Effect.DOUBTFUL]
        frames[0].save(tmp_path / f"one.{ending}")
        assert not found([tmp_path / f"one.{ending}"])
    smaller = frames[0].resize((4, 4))
    smaller.encoderinfo = {"tiffinfo": {254: 1}}
    frames[0].save(tmp_path / "pyramid.tif", save_all=True, append_images=[smaller])
    with Image.open(tmp_path / "pyramid.tif") as image:
        image.seek(1)
        assert image.tag_v2[254] == 1
    assert not found([tmp_path / "pyramid.tif"])


def test_a_large_folder_is_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = folder(tmp_path / "a", np.uint16, 0, 4095, 12)
    monkeypatch.setattr(value_ranges, "LISTED", 6)
    monkeypatch.setattr(value_ranges, "DECODED", 2)
    opened: list[Path] = []
    original = value_ranges.open_image
    monkeypatch.setattr(value_ranges, "open_image", lambda path, most: opened.append(path) or original(path, most))
    assert LITTLE in found(paths)
    assert len(opened) == 6 + 2
    assert {paths[0], paths[-1]} <= set(opened)
