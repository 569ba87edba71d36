"""Models from their files: what they find is what the networks compute, whatever is given, batched and in any thread."""

import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from torchvision.transforms import CenterCrop, Normalize, Resize, ToTensor

import convmae
from convmae.backbones import ConvViT
from convmae.backbones.weights import safe_files
from convmae.engine.files import save_weights
from convmae.engine.machine import compilation
from convmae.engine.pictures.images import IMAGENET_MEAN, IMAGENET_STD

SIZES = ((50, 70), (64, 64), (70, 50), (33, 90), (50, 70))


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def test_the_root_module_reads_nothing_until_a_name_is_used() -> None:
    code = (
        "import sys, convmae\n"
        "assert not {'torch', 'numpy', 'PIL', 'omegaconf'} & set(sys.modules), sorted(sys.modules)\n"
        "assert set(convmae.__all__) <= set(dir(convmae))\n"
        "convmae.UserError\n"
        "assert 'torch' not in sys.modules\n"
        "import convmae.backbones\n"
        "assert convmae.backbones.ConvViT\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(getattr(convmae, name) for name in convmae.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = convmae.lod


def test_a_file_says_what_it_is_of(detector_file: Path, segmenter_file: Path, classifier_file: Path) -> None:
    for path, kind, classes in (
        (detector_file, convmae.Detector, ("box", "disc", "bar")),
        (segmenter_file, convmae.Segmenter, ("sky", "road", "car")),
        (classifier_file, convmae.Classifier, ("cat", "dog", "bird")),
    ):
        model = convmae.load(path)
        assert isinstance(model, kind)
        assert (model.classes, model.device) == (classes, torch.device("cpu"))
        assert isinstance(convmae.load(str(path), task=model.task), kind)
        assert not model.module.training


def test_the_values_of_a_file_are_read_once(
    detector_file: Path, segmenter_file: Path, classifier_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors: list[str] = []
    monkeypatch.setattr(safe_files, "read_zip", _counting(safe_files.read_zip, tensors))
    for path in (detector_file, segmenter_file, classifier_file):
        tensors.clear()
        convmae.load(path)
        assert tensors.count("values") == 1


def _counting(read: Callable[..., Any], reads: list[str]) -> Callable[..., Any]:
    def counted(file: Any, values: bool) -> Any:
        reads.append("values" if values else "names")
        return read(file, values)

    return counted


def test_any_batch_and_any_thread_finds_the_same(
    detector_file: Path, segmenter_file: Path, classifier_file: Path
) -> None:
    for path, options in (
        (detector_file, {"model__score_threshold": 0.01}),
        (segmenter_file, {}),
        (classifier_file, {}),
    ):
        model = convmae.load(path, precision="fp32", **options)
        alone = [model.predict(picture) for picture in pictures()]
        assert [len(found) for found in alone] == [1] * len(SIZES)
        batched = model.predict(pictures(), batch_size=3)
        with ThreadPoolExecutor(4) as threads:
            threaded = list(threads.map(lambda picture, model=model: model.predict(picture), pictures()))
        for (one,), other, (third,), size in zip(alone, batched, threaded, SIZES, strict=True):
            assert one.size == other.size == size
            for again in (other, third):
                for name in ("boxes", "scores", "labels", "probabilities"):
                    if getattr(one, name, None) is not None:
                        np.testing.assert_allclose(getattr(one, name), getattr(again, name), rtol=1e-3, atol=1e-3)


def test_detections_are_typed_and_in_the_pictures_pixels(detector_file: Path) -> None:
    model = convmae.load(detector_file, model__score_threshold=0.01)
    results = model.predict((picture for picture in pictures()), batch_size=2)
    for result, (height, width) in zip(results, SIZES, strict=True):
        assert result.boxes.shape == (len(result), 4)
        assert len(result) > 0
        assert (result.boxes[:, 2:] > result.boxes[:, :2]).all()
        assert result.boxes.min() >= 0
        assert (result.boxes <= np.array([width, height, width, height])).all()
        assert (np.diff(result.scores) <= 0).all()
        assert result.names == tuple(("box", "disc", "bar")[label] for label in result.labels)
        assert result.masks.shape == (len(result), height, width)
        for mask, rle in zip(result.masks, result.rles, strict=True):
            np.testing.assert_array_equal(mask, mask_api.decode(rle))
        sure = result.confident(float(result.scores[1]))
        assert 2 <= len(sure) == len(sure.rles) == (result.scores >= result.scores[1]).sum()
        assert len(result.confident(1.0).masks) == 0
        assert isinstance(result.draw(threshold=0), Image.Image)
        assert f"{width} x {height} pixels" in repr(result)
    with pytest.raises(AttributeError):
        results[0].boxes = None
    truth = COCO()
    truth.dataset = {
        "images": [{"id": n, "width": size[1], "height": size[0]} for n, size in enumerate(SIZES)],
        "categories": [{"id": one.id, "name": one.name} for one in model.categories],
        "annotations": [],
    }
    truth.createIndex()
    rows = [row for number, result in enumerate(results) for row in result.to_coco(number)]
    loaded = truth.loadRes(rows)
    assert len(loaded.anns) == sum(map(len, results))
    np.testing.assert_array_equal(loaded.annToMask(loaded.anns[1]), results[0].masks[0])
    assert {row["category_id"] for row in rows} <= {3, 7, 90}


def test_a_higher_threshold_leaves_the_less_sure_out(detector_file: Path) -> None:
    model = convmae.load(detector_file, model__score_threshold=0.01)
    (every,) = model.predict(pictures()[0])
    threshold = float(every.scores[1:3].mean())
    (some,) = model.predict(pictures()[0], score_threshold=threshold)
    np.testing.assert_array_equal(some.boxes, every.boxes[every.scores >= threshold])
    (again,) = convmae.load(detector_file, model__score_threshold=threshold).predict(pictures()[0])
    np.testing.assert_array_equal(some.boxes, again.boxes)
    with pytest.raises(convmae.UserError, match=r"score_threshold is 0.001; expected 0.01 .* to 1"):
        model.predict(pictures()[0], score_threshold=0.001)


def test_label_maps_and_scores_agree(segmenter_file: Path) -> None:
    for options in ({}, {"inference__flip": True, "inference__scales": [0.5, 1.0]}):
        model = convmae.load(segmenter_file, **options)
        plain = model.predict(pictures())
        for one, other, size in zip(plain, model.predict(pictures(), scores=True), SIZES, strict=True):
            assert one.labels.shape == size
            assert one.scores is None
            assert other.scores.shape == (3, *size)
            np.testing.assert_allclose(other.scores.sum(0), 1, atol=1e-4)
            assert (one.labels == other.scores.argmax(0)).mean() > 0.999
            assert len(np.unique(one.labels)) > 1
            assert set(one.names) == {model.classes[label] for label in np.unique(one.labels)}
            np.testing.assert_array_equal(np.asarray(one.image()), one.labels + model.first)
            areas = {row["category_id"]: mask_api.area(row["segmentation"]) for row in one.to_coco(1)}
            assert areas == {label + 1: (one.labels == label).sum() for label in np.unique(one.labels)}
            assert isinstance(one.draw(), Image.Image)


def test_class_probabilities_are_the_networks_on_the_centre_crop(classifier_file: Path) -> None:
    model = convmae.load(classifier_file)
    network = ConvViT("tiny", num_classes=3, img_size=32).eval()
    network.load_state_dict(torch.load(classifier_file, weights_only=True)["model"])
    for result, picture in zip(model.predict(pictures(), batch_size=2), pictures(), strict=True):
        square = CenterCrop(32)(Resize(40, interpolation=Image.Resampling.BICUBIC)(Image.fromarray(picture)))
        inputs = Normalize(IMAGENET_MEAN, IMAGENET_STD)(ToTensor()(square))
        with torch.no_grad():
            expected = network(inputs[None]).softmax(1)[0].numpy()
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-4)
        order = expected.argsort()[::-1]
        assert [name for name, _ in result.top(2)] == [model.classes[label] for label in order[:2]]
        assert (result.name, result.score) == (model.classes[order[0]], pytest.approx(expected.max(), abs=1e-4))
        assert len(result.top()) == 3
        assert isinstance(result.draw(), Image.Image)


def test_results_turn_into_supervisions(detector_file: Path, segmenter_file: Path, classifier_file: Path) -> None:
    supervision = pytest.importorskip("supervision")
    (found,) = convmae.load(detector_file, model__score_threshold=0.01).predict(pictures()[0])
    theirs = found.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, found.boxes)
    np.testing.assert_array_equal(theirs.mask, found.masks)
    assert theirs.data["class_name"].tolist() == list(found.names)
    assert isinstance(theirs[theirs.confidence > 0.1], supervision.Detections)
    (labels,) = convmae.load(segmenter_file).predict(pictures()[0])
    areas = labels.to_supervision().area.tolist()
    assert areas == np.unique(labels.labels, return_counts=True)[1].tolist()
    (shown,) = convmae.load(classifier_file).predict(pictures()[0])
    assert shown.to_supervision().get_top_k(1)[0].tolist() == [shown.label]


def test_where_supervision_is_missing_one_message_says_so(
    classifier_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    (found,) = convmae.load(classifier_file).predict(pictures()[0])
    with pytest.raises(convmae.UserError, match="pip install supervision"):
        found.to_supervision()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "segmentation"}, "holds a model of detection; expected one of segmentation"),
        ({"task": "seg"}, "task is 'seg'; expected one of detection, segmentation, classification"),
        ({"model__score": 1}, "there is no option 'model.score'. Did you mean 'score_threshold'"),
        ({"model__detections": "many"}, "model.detections"),
        ({"model__detections": object()}, "model.detections is a object; expected a number"),
        ({"precision": "fp8"}, "runtime.precision is 'fp8'; expected one of auto"),
        ({"device": "tpu"}, "runtime.device is 'tpu'; expected one of auto, cpu, cuda"),
        ({"config": "upernet_tiny_camvid.yaml"}, "there is no option"),
    ],
)
def test_options_that_can_not_be_are_one_message(detector_file: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(convmae.UserError, match=said) as caught:
        convmae.load(detector_file, **options)
    assert "\n" not in str(caught.value)
    assert "of the run that wrote the checkpoint" not in str(caught.value)  # whose recipe is right


def test_a_compiled_model_finds_the_same(
    detector_file: Path, segmenter_file: Path, classifier_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the generated code, which would take a minute here: PyTorch's graphs run as they are."""
    for task, path in (
        ("detection", detector_file),
        ("segmentation", segmenter_file),
        ("classification", classifier_file),
    ):
        predicting, graphs = f"convmae.{task}.predict", compilation._compiled
        made: list[str] = []

        def compiled(method: Any, mode: str, backend: str, made: list[str] = made, graphs: Any = graphs) -> Any:
            made.append(method.__name__)
            return graphs(method, mode, "eager")

        monkeypatch.setattr(compilation, "_compiled", compiled)
        monkeypatch.setattr(f"{predicting}.check_compiler", lambda device: None)
        plain = convmae.load(path, precision="fp32").predict(pictures()[:2])
        for one, other in zip(
            plain, convmae.load(path, precision="fp32", compile=True).predict(pictures()[:2]), strict=True
        ):
            for name in ("boxes", "scores", "labels", "probabilities"):
                if getattr(one, name, None) is not None:
                    np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4)
        assert made
        monkeypatch.undo()


def test_files_of_no_model_are_one_message(tmp_path: Path, detector_file: Path) -> None:
    encoder = ConvViT("tiny", num_classes=0, img_size=32).state_dict()
    save_weights(encoder, tmp_path / "encoder.pth")
    save_weights(encoder, tmp_path / "encoder.safetensors")
    save_weights({"weight": torch.zeros(3), "bias": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, said in (
        ("encoder.pth", "encoder.pth holds an encoder alone; expected a classifier, a detector or a segmenter"),
        ("encoder.safetensors", "holds an encoder alone"),
        ("other.pth", "holds none of this project's models"),
        ("text.pth", "text.pth is a file that begins with"),
        ("gone.pth", "There is no checkpoint"),
    ):
        with pytest.raises(convmae.UserError, match=said):
            convmae.load(tmp_path / name)
    save_weights(torch.load(detector_file, weights_only=True)["model"], tmp_path / "alone" / "model.pth")
    for options, said in (
        ({}, "no config.yaml lies beside it; give its recipe by config=."),
        ({"config": "mask_rcnn_tiny_256px.yaml"}, "Give the config.yaml of its run by config=."),
    ):
        with pytest.raises(convmae.UserError, match=re.escape(said)):
            convmae.load(tmp_path / "alone" / "model.pth", **options)
    Image.new("L", (80, 80)).save(tmp_path / "large.png")
    with pytest.raises(convmae.UserError, match="Raise it, as by data__max_pixels=6400, or"):
        convmae.load(detector_file, data__max_pixels=6399).predict(tmp_path / "large.png")
    with pytest.raises(convmae.UserError, match="batch_size is 0; expected a whole number of at least 1"):
        convmae.load(detector_file).predict(pictures(), batch_size=0)
