"""Videos written are read again; one that is none, or is cut off, says so."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.pictures.videos import Video, VideoWriter, is_video


def write(path: Path, count: int = 30, size: tuple[int, int] = (64, 48)) -> None:
    with VideoWriter(path, 10.0) as writer:
        for number in range(count):
            writer.add(Image.new("RGB", size, (8 * number, 255 - 8 * number, 100)))


@pytest.mark.parametrize("size", [(64, 48), (65, 47)])
def test_what_is_written_is_read(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "deep" / "a.mp4", 30, size)
    with Video(str(tmp_path / "deep" / "a.mp4")) as video:
        assert (video.rate, video.frames, video.camera) == (10.0, 30, False)
        found = list(video.read())
    assert len(found) == 30
    for number, image in enumerate(found):
        assert image.size == (size[0] // 2 * 2, size[1] // 2 * 2)
        colour = np.asarray(image).reshape(-1, 3).mean(0)
        np.testing.assert_allclose(colour, (8 * number, 255 - 8 * number, 100), atol=12)  # what the codec loses
    with Video(str(tmp_path / "deep" / "a.mp4")) as video:
        assert len(list(video.read(most=4))) == 4


def test_names_of_videos_and_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").mkdir()
    told = {name: is_video(name) for name in ("a.mp4", "a.MOV", "0", "1", "a.jpg", "a.gif", "folder")}
    assert told == {
        "a.mp4": True,
        "a.MOV": True,
        "0": True,
        "1": False,
        "a.jpg": False,
        "a.gif": False,
        "folder": False,
    }


def test_what_can_not_be_read_is_one_message(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "none.mp4").write_bytes(b"no video")
    for name, said in (
        ("none.mp4", "none.mp4 can't be read; expected a video that OpenCV decodes"),
        ("gone.mp4", "There is no video .*gone.mp4"),
    ):
        with pytest.raises(UserError, match=said):
            Video(str(tmp_path / name))
    with pytest.raises(UserError, match="There is no camera 97"):
        Video("97")
    assert "VIDEOIO" not in capfd.readouterr().err  # what each of OpenCV's readers tried


def test_a_video_that_is_cut_off_gives_its_frames_and_then_says_so(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(40):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = []
    with Video(str(path)) as video:
        images = video.read()
        with pytest.raises(UserError, match=r"a\.avi ends after \d+ frames of \d+: it is cut off"):
            found.extend(images)
    assert 5 < len(found) < 35
