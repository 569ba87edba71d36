"""What the tool writes of its other forms: classes of pictures, batches, videos, and tiles of large pictures."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_states import write_classifier, write_segmenter
from tiny_detector import write_run

import convmae
from convmae.engine.pictures.videos import Video, VideoWriter
from convmae.tools import predict
from convmae.written import DetectionFiles


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a detector, seven pictures of two sizes and a video of them."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    generator = np.random.default_rng(0)
    Path("pictures").mkdir()
    with VideoWriter(Path("clip.mp4"), 5.0) as video:
        for number in range(7):
            size = (48, 64) if number % 3 else (64, 48)
            image = Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
            image.save(f"pictures/{number}.png")
            video.add(image.resize((64, 48)))
    return tmp_path


def test_classes_are_written_as_json_and_csv(folder: Path, capsys: pytest.CaptureFixture) -> None:
    write_classifier(folder / "cls.pth")
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    assert predict.main(["cls", "cls.pth", "pictures", "--top", "2", "--batch-size", "3", "--device", "cpu"]) == 1
    said = capsys.readouterr()
    assert "broken.png can't be read" in said.err
    assert "on 7 pictures; 1 could not be read" in said.out
    rows = json.loads(Path("predictions/classes.json").read_text())
    expected = convmae.load("cls.pth").predict([f"pictures/{number}.png" for number in range(7)])
    for row, result, number in zip(rows, expected, range(7), strict=True):
        assert row["file_name"] == f"pictures/{number}.png"
        assert [one["name"] for one in row["classes"]] == [name for name, _ in result.top(2)]
        scores = [one["probability"] for one in row["classes"]]
        assert scores == pytest.approx([score for _, score in result.top(2)], abs=1e-4)
    table = list(csv.DictReader(Path("predictions/classes.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["class_1"] for row in table] == [result.name for result in expected]
    assert [float(row["probability_2"]) for row in table] == [row["classes"][1]["probability"] for row in rows]
    assert sum(path.suffix == ".png" for path in Path("predictions").iterdir()) == 7
    assert predict.main(["cls", "cls.pth", "pictures", "--top", "2"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert predict.main(["cls", "model.pth", "pictures", "--output", "other"]) == 2
    assert "model.pth holds a model of detection; expected one of classification" in capsys.readouterr().err


def test_batches_find_what_single_pictures_do(folder: Path) -> None:
    argv = ["det", "model.pth", "pictures", "--score-threshold", "0.05", "--no-drawings"]
    found = []
    for size in ("1", "4"):
        assert predict.main([*argv, "--batch-size", size, "--output", size]) == 0
        found.append(json.loads(Path(size, "detections.json").read_text()))
    assert found[0]["images"] == found[1]["images"]
    assert [row["image_id"] for row in found[0]["annotations"]] == [row["image_id"] for row in found[1]["annotations"]]
    for one, other in zip(found[0]["annotations"], found[1]["annotations"], strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)
    with pytest.raises(SystemExit):
        predict.main([*argv, "--batch-size", "0"])


@pytest.mark.parametrize("task", ["det", "seg", "cls"])
def test_a_videos_frames_are_drawn_and_written(folder: Path, task: str, capsys: pytest.CaptureFixture) -> None:
    weights = {
        "det": Path("model.pth"),
        "seg": write_segmenter(folder / "s.pth"),
        "cls": write_classifier(folder / "c.pth"),
    }
    threshold = ["--score-threshold", "0.05"] if task == "det" else []
    assert predict.main([task, str(weights[task]), "clip.mp4", *threshold, "--batch-size", "2"]) == 0
    assert "on 7 frames" in capsys.readouterr().out
    with Video("predictions/clip.mp4") as video:
        assert (video.rate, len(list(video.read()))) == (5.0, 7)
    if task == "det":
        content = json.loads(Path("predictions/detections.json").read_text())
        assert [image["file_name"] for image in content["images"]] == [f"clip.mp4#{number}" for number in range(7)]
        with Video("clip.mp4") as video:
            expected = convmae.load("model.pth", model__score_threshold=0.05).predict(video.read())
        assert len(content["annotations"]) == sum(map(len, expected)) > 0
    if task == "seg":
        assert len(list(Path("predictions/labels").iterdir())) == 7
    if task == "cls":
        assert len(json.loads(Path("predictions/classes.json").read_text())) == 7
    argv = [task, str(weights[task]), "clip.mp4", "--overwrite", "--frames", "3", "--no-drawings"]
    assert predict.main(argv) == 0
    assert "on 3 frames" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_video_that_is_stopped_has_the_frames_that_were_written(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The signal comes between what is written of a frame: its detections, and its drawing."""
    draw, drawn = DetectionFiles.draw, list[int]()

    def stopped(files: DetectionFiles, result: convmae.Detections) -> Image.Image:
        drawn.append(len(result))
        if len(drawn) == 3:
            os.kill(os.getpid(), number)
        return draw(files, result)

    monkeypatch.setattr(DetectionFiles, "draw", stopped)
    assert predict.main(["det", "model.pth", "clip.mp4", "--batch-size", "2"]) == 0
    said = capfd.readouterr()
    assert "Stops after this frame" in said.err
    assert "on 3 frames" in said.out
    assert len(json.loads(Path("predictions/detections.json").read_text())["images"]) == 3
    with Video("predictions/clip.mp4") as video:
        assert len(list(video.read())) == 3


def test_mistakes_with_videos_are_answered_in_one_line(folder: Path, capsys: pytest.CaptureFixture) -> None:
    Path("none.mp4").write_bytes(b"no video")
    for pictures, said in (
        (["none.mp4"], "none.mp4 can't be read; expected a video that OpenCV decodes"),
        (["gone.mp4"], "There is no video gone.mp4"),
        (["97"], "There is no camera 97"),
        (["clip.mp4", "pictures"], "found 2 inputs with a video among them; expected one video, or pictures"),
    ):
        assert predict.main(["det", "model.pth", *pictures]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert said in errors[0]
    assert not Path("predictions", "detections.json").exists()


def test_what_a_video_held_before_it_was_cut_off_is_written(folder: Path, capsys: pytest.CaptureFixture) -> None:
    import cv2

    writer = cv2.VideoWriter("cut.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(20):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    content = Path("cut.avi").read_bytes()
    Path("cut.avi").write_bytes(content[: len(content) // 2])
    assert predict.main(["det", "model.pth", "cut.avi"]) == 2
    assert "cut.avi ends after" in capsys.readouterr().err
    images = json.loads(Path("predictions/detections.json").read_text())["images"]
    assert 2 < len(images) < 18
    with Video("predictions/cut.mp4") as video:
        assert len(list(video.read())) == len(images)


def test_large_pictures_are_looked_at_in_tiles(folder: Path, capsys: pytest.CaptureFixture) -> None:
    parts = [Image.open(f"pictures/{number}.png").resize((64, 64)) for number in range(4)]
    large = Image.new("RGB", (128, 128))
    for number, part in enumerate(parts):
        large.paste(part, (64 * (number % 2), 64 * (number // 2)))
    large.save("large.png")
    argv = ["det", "model.pth", "large.png", "--score-threshold", "0.05", "--tile", "64", "--no-drawings"]
    assert predict.main([*argv, "--overlap", "0"]) == 0
    rows = json.loads(Path("predictions/detections.json").read_text())["annotations"]
    alone = convmae.load("model.pth", model__score_threshold=0.05).predict(parts)
    corners = sorted(tuple(np.round(row["bbox"][:2], 1)) for row in rows)
    assert len(rows) > 5  # no more than a picture alone could have, but for the tiles
    expected = {
        tuple(np.round(np.add(box[:2], (64 * (number % 2), 64 * (number // 2))), 1))
        for number, result in enumerate(alone)
        for box in result.boxes
    }
    assert set(corners) <= expected
    assert predict.main([*argv, "--overlap", "2", "--overwrite"]) == 2
    assert "overlap is 2; expected a part of the tile's side" in capsys.readouterr().err
