"""Pictures kept in memory: the samples that their files give, shared by loader processes, freed with them, or refused."""

import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from convmae.engine.errors import UserError
from convmae.engine.feeding import pictures
from convmae.engine.feeding.pictures import Crops, Pictures
from convmae.engine.pictures.images import Box, read_crop, read_image, resize_crop, to_tensor
from convmae.engine.pictures.reading import Reading
from convmae.engine.seeding import SampleKey, SeededDataset
from convmae.pretraining.config import PretrainingDataOptions
from convmae.pretraining.data.dataset import PictureFolder

SIZE = 32
RUN = """
import sys, time
import torch
from convmae.engine.machine.loading import load
from convmae.engine.seeding import SampleKey, SeededDataset
from convmae.pretraining.config import PretrainingDataOptions
from convmae.pretraining.data.dataset import PictureFolder

options = PretrainingDataOptions(root=sys.argv[1], keep="memory", workers=2)
data = SeededDataset(PictureFolder(options, 32), 0)
keys = [SampleKey(0, index % len(data)) for index in range(100_000)]
for number, batch in enumerate(load(data, options, torch.device("cpu"), batch_size=4, sampler=keys)):
    if number == 8:
        print("reads", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures whose crops are decoded at 1/1 to 1/8 of their size, turned ones, and some of other kinds."""
    draw, made = np.random.default_rng(0), tmp_path / "made"
    made.mkdir()
    for number, (height, width) in enumerate([(40, 60), (90, 70), (301, 203), (613, 420)]):
        cells = Image.fromarray(draw.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        turned = Image.Exif()
        turned[ExifTags.Base.Orientation] = 1 + 5 * (number % 2)
        cells.resize((width, height), Image.Resampling.BICUBIC).save(made / f"{number}.jpg", exif=turned)
    cells.convert("L").save(made / "grey.png")
    cells.resize((99, 50)).save(made / "colour.png")
    Image.fromarray(draw.integers(0, 256, (37, 45, 4), dtype=np.uint8)).save(made / "clear.png")
    return made


def crop_of(size: int = SIZE, part: float = 0.2) -> v2.RandomResizedCrop:
    return v2.RandomResizedCrop(size, (part, 1.0))


def drawn(crop: v2.RandomResizedCrop, seed: int, sizes: list[tuple[int, int]]) -> object:
    torch.manual_seed(seed)

    def choose(height: int, width: int) -> Box:
        sizes.append((height, width))
        return Box(**crop.make_params([torch.empty(3, height, width, device="meta")]))

    return choose


@pytest.mark.parametrize("channels", [3, 1])
def test_crops_are_those_of_the_files(folder: Path, channels: int) -> None:
    paths, reading = sorted(folder.iterdir()), Reading(channels)
    kept = Pictures(paths, reading, "memory", Crops(SIZE, 0.2))
    assert kept.kept is not None
    for index, path in enumerate(paths):
        for seed in range(12):
            sizes: list[tuple[int, int]] = []
            expected = resize_crop(*read_crop(path, drawn(crop_of(), seed, sizes), SIZE, reading), SIZE)
            after = torch.rand(1)
            found = resize_crop(*kept.read_crop(index, drawn(crop_of(), seed, sizes), SIZE), SIZE)
            assert torch.equal(found, expected)
            assert torch.equal(torch.rand(1), after)  # as many numbers were drawn
            assert sizes[0] == sizes[1]
    used = kept.kept.filled.sum(0).tolist()
    assert all(used[:3]), "no crop was decoded smaller"


@pytest.mark.parametrize("channels", [3, 1])
def test_whole_pictures_are_those_of_the_files_and_not_lent(folder: Path, channels: int) -> None:
    paths, reading = sorted(folder.iterdir()), Reading(channels)
    kept = Pictures(paths, reading, "memory")
    for _ in range(3):
        for index, path in enumerate(paths):
            found, expected = kept.read(index), read_image(path, reading)
            assert isinstance(found, torch.Tensor) == isinstance(expected, torch.Tensor)
            assert torch.equal(to_tensor(found), to_tensor(expected))
            if isinstance(found, torch.Tensor):
                found.zero_()
            else:
                found.paste("black", (0, 0, *found.size))


def test_bands_are_kept_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (50, 40, 5), dtype=np.uint8))
    kept = Pictures([tmp_path / "a.npy"], Reading(5), "memory", Crops(SIZE, 0.2))
    for seed in range(4):
        expected = read_crop(tmp_path / "a.npy", drawn(crop_of(), seed, []), SIZE, Reading(5))
        found = kept.read_crop(0, drawn(crop_of(), seed, []), SIZE)
        assert torch.equal(resize_crop(*found, SIZE), resize_crop(*expected, SIZE))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_one_process_reads_all_have(folder: Path, start: str) -> None:
    def samples(keep: str) -> PictureFolder:
        return PictureFolder(PretrainingDataOptions(root=str(folder), keep=keep), SIZE)

    plain, kept = samples("none"), samples("memory")
    keys = [SampleKey(0, index) for index in range(len(plain))]
    expected = [SeededDataset(plain, 0)[key] for key in keys]
    context = multiprocessing.get_context(start)
    loader = DataLoader(SeededDataset(kept, 0), None, sampler=keys, num_workers=2, multiprocessing_context=context)
    first = list(loader)
    folder.rename(folder.with_name("gone"))  # what other processes read is what there is
    for found in (first, list(loader), [SeededDataset(kept, 0)[key] for key in keys]):
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one["images"], other["images"])
            assert torch.equal(one["noise"], other["noise"])


def test_a_picture_that_can_t_be_read_is_told_where_it_is_read(folder: Path) -> None:
    (folder / "1.jpg").write_bytes(b"no picture")
    paths = sorted(folder.iterdir())
    kept = Pictures(paths, keep="memory", crops=Crops(SIZE, 0.2))
    for _ in range(2):
        with pytest.raises(UserError, match=r"1\.jpg can't be read as a picture"):
            kept.read_crop(1, drawn(crop_of(), 0, []), SIZE)
        with pytest.raises(UserError, match=r"1\.jpg can't be read as a picture"):
            Pictures(paths, keep="memory").read(1)


def test_a_set_that_does_not_fit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        Image.new("RGB", (1024, 1024)).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.iterdir())
    monkeypatch.setattr(pictures, "free_memory", lambda: 15 * 2**20)  # 12 of them are taken at most
    assert len(Pictures(paths, keep="memory")) == 4
    monkeypatch.setattr(pictures, "free_memory", lambda: 14 * 2**20)
    with pytest.raises(
        UserError, match=r"data\.keep is memory, and 4 pictures take about 0\.0 GiB decoded; here are 0\.0 GiB"
    ):
        Pictures(paths, keep="memory")
    monkeypatch.setattr(pictures, "from_here", lambda value: [value] * 2)
    monkeypatch.setattr(pictures, "free_memory", lambda: 29 * 2**20)
    with pytest.raises(UserError, match=r"in each of the 2 training processes of this node"):
        Pictures(paths, keep="memory")


def test_jpeg_files_take_no_more_room_than_their_crops_need(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 1200)).save(tmp_path / "a.jpg")
    kept = Pictures([tmp_path / "a.jpg"], keep="memory", crops=Crops(SIZE, 0.5)).kept
    assert kept is not None
    assert kept.bytes.numel() == 3 * 200 * 150  # crops have 848 pixels and more: all are decoded at an eighth
    smaller = Pictures([tmp_path / "a.jpg"], keep="memory", crops=Crops(SIZE, 0.05)).kept
    assert smaller is not None
    assert smaller.bytes.numel() == 3 * (200 * 150 + 400 * 300)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_of_it_after_ctrl_c(folder: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert run.stdout is not None
    assert run.stdout.readline() == b"reads\n"
    everyone = [run.pid, *map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())]
    assert "/dev/shm/torch_" in Path(f"/proc/{run.pid}/maps").read_text()
    assert not list(Path("/dev/shm").glob(f"torch_{run.pid}_*"))  # it has no name that could stay
    run.send_signal(signal.SIGINT)
    run.wait(60)
    for _ in range(600):
        if not any(Path(f"/proc/{pid}").exists() for pid in everyone):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in everyone)  # with the last that maps it, the system frees it
