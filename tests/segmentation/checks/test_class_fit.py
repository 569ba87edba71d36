"""Where label maps and class list disagree, training and the check of data say the same, with advice that fits the values."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.faults import Effect
from convmae.segmentation.checks.data_check import check_data
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.class_list import read_class_list
from convmae.segmentation.data.found import Found
from convmae.segmentation.train import find_data

STOPS, DOUBTFUL, NOTE = Effect.STOPS, Effect.DOUBTFUL, Effect.NOTE


def blocks(*values: int) -> np.ndarray:
    """A label map with a block of 8 x 8 pixels of each value."""
    return np.array([values], np.uint8).repeat(8, 0).repeat(8, 1)


def config_of(root: Path, reduce_zero_label: bool) -> SegmentationConfig:
    config = SegmentationConfig()
    config.data.root, config.data.reduce_zero_label = str(root), reduce_zero_label
    return config


def write(root: Path, names: str, training: Sequence[np.ndarray], validation: Sequence[np.ndarray]) -> None:
    """Writes data with grey pictures; ``names`` are the lines of the class list, with commas between them."""
    for split, maps in (("training", training), ("validation", validation)):
        images, labels = (root / folder / split for folder in ("images", "annotations"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number, label in enumerate(maps):
            shade = 100 + 2 * number + (split == "validation")  # no picture twice
            Image.new("RGB", label.shape[::-1], (shade, 128, 128)).save(images / f"p{number}.png")
            Image.fromarray(label).save(labels / f"p{number}.png")
    (root / "classes.txt").write_text("\n".join(names.split(",")))


def check(root: Path, reduce_zero_label: bool, count: int = 0) -> list[Found]:
    options = config_of(root, reduce_zero_label).data
    return check_data(options, read_class_list(options), count)


def told(found: Found) -> dict[str, tuple[Effect, str]]:
    """What is said of a split as a whole."""
    return {fault.kind: (fault.effect, str(fault)) for fault in found.faults if fault.image is None}


BEYOND, ALONE, NOWHERE = (
    "splits whose labels are numbered in another way",
    "splits with pixels of one class alone",
    "lists with classes that no label map holds",
)
VOID, FIRST = "splits without a labelled pixel", "lists that begin with what label 0 is called"
MOSTLY, CALLED = "splits most of whose pixels are ignored", "lists with a class that is called as if it were none"
# The class list, whether 0 is ignored, the values of two training label maps, what is said of them, and words of it.
CASES: dict[str, tuple[str, bool, list[list[int]], str, Effect, list[str]]] = {
    "0 and 255, 0 ignored": (
        "background,polyp", True, [[0, 255]] * 2, VOID, STOPS,
        ["They hold 0 and 255", "write 255 as 1", "set data.reduce_zero_label=false"],
    ),
    "0 and 255, 0 a class": (
        "background,polyp", False, [[0, 255]] * 2, ALONE, STOPS,
        ["'background' alone has pixels", "255 is always ignored: if it marks 'polyp', write it as 1"],
    ),
    "255 as the third class": (
        "background,polyp,tool", False, [[0, 1], [0, 255]], NOWHERE, DOUBTFUL,
        ["1 of the 3 classes", "('tool'): not learnt", "if it marks 'tool', write it as 2"],
    ),
    "0 alone": ("sky,road", True, [[0], [0]], VOID, STOPS, ["They hold 0 alone", "Expected the labels 1 to 2"]),
    "255 alone": ("sky,road", False, [[255], [255]], VOID, STOPS, ["They hold 255 alone", "the labels 0 to 1"]),
    "0 and 1 where 0 is ignored": (
        "background,polyp", True, [[0, 1]] * 2, ALONE, STOPS,
        ["'background' alone has pixels", "If label 0 is a class", "set data.reduce_zero_label=false"],
    ),
    "0 and 1 where the list ignores 0": (
        "1 polyp,2 tool", True, [[0, 1]] * 2, ALONE, STOPS, ["as in '0 background', and set data.reduce_zero_label=false"],
    ),
    "one class in all": ("sky,road,car", False, [[1], [1]], ALONE, STOPS, ["hold 1 alone", "'road' alone"]),
    "0 to 2 where 0 is ignored": (
        "background,cat,dog", True, [[0, 1, 2]] * 2, FIRST, STOPS,
        ["no pixel of 1 of the 3 classes", "if 'background' is label 0, set data.reduce_zero_label=false", "'1 background'"],
    ),
    "0 to 2, and nothing known of 0": (
        "bird,cat,dog", True, [[0, 1, 2]] * 2, NOWHERE, DOUBTFUL, ["if 'bird' is label 0, set data.reduce_zero_label=false"],
    ),
    "1 to 3 where 0 is a class": (
        "bird,cat,dog", False, [[1, 2, 3]] * 2, BEYOND, STOPS, ["0 never occurs", "set data.reduce_zero_label=true"],
    ),
    "grey levels": (
        "sky,road,car", True, [[85, 170], [0, 255]], BEYOND, STOPS, ["write 0, 85, 170 and 255 as 0, 1, 2 and 3"],
    ),
    "0 and 254": ("ground,cell", False, [[0, 254]] * 2, BEYOND, STOPS, ["write 0 and 254 as 0 and 1"]),
    "254 as a mark": (
        "ground,cell", False, [[0, 1, 254]] * 2, BEYOND, STOPS, ["If 254 marks pixels to ignore, write it as 255"],
    ),
    "a grey picture": (
        "sky,road,car", False, [list(range(40, 60))] * 2, BEYOND, STOPS, ["alone holds 20 values: it may be a grey picture"],
    ),
    "Cityscapes' ids": (
        ",".join(f"c{index}" for index in range(19)), False, [[7, 8, 11, 26, 33]] * 2, BEYOND, STOPS, ["labelTrainIds"],
    ),
    "a longer list": (
        "0 other,1 sky,2 road,3 car,4 ghost", True, [[0, 1, 2, 3]] * 2, NOWHERE, DOUBTFUL, ["1 of the 4 classes", "('ghost')"],
    ),
    "mostly ignored": (
        "sky,road", True, [[0, 0, 0, 1], [0, 0, 0, 2]], MOSTLY, DOUBTFUL, ["75.0 % are 0", "If label 0 is a class"],
    ),
    "void is learnt": ("sky,road,void", False, [[0, 1, 2]] * 2, CALLED, DOUBTFUL, ["'void', which is learnt"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_training_and_the_check_say_the_same(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names, reduce_zero_label, values, kind, effect, words = CASES[case]
    write(tmp_path, names, [blocks(*one) for one in values], [blocks(*one) for one in values])
    training, _ = check(tmp_path, reduce_zero_label)
    assert told(training)[kind][0] is effect
    said = told(training)[kind][1]
    assert all(word in said for word in [*words, str(tmp_path)]), said
    if effect is STOPS:
        with pytest.raises(UserError) as refused:
            find_data(config_of(tmp_path, reduce_zero_label), ("training",))
        assert str(refused.value).startswith(said)
    else:
        with caplog.at_level(logging.WARNING):
            find_data(config_of(tmp_path, reduce_zero_label), ("training",))
        assert f"training data: 1 {kind} ({effect.value}): {said}" in caplog.text


@pytest.mark.parametrize(
    ("names", "reduce_zero_label", "values"),
    [
        ("sky,road,car", True, [[0, 1, 2, 3], [1, 3, 255]]),
        ("sky,road,car", False, [[0, 1, 2], [255, 2, 2]]),
        ("background,cat,dog", True, [[0, 1, 2], [1, 3, 3]]),  # 3 occurs, so 0 is none of them
        ("0 other (ignored),1 background,2 cat", True, [[1, 2], [1, 1]]),
        ("ground,cell", False, [[0, 1], [0, 0]]),
    ],
)
def test_what_fits_is_not_remarked(
    tmp_path: Path, names: str, reduce_zero_label: bool, values: list[list[int]]
) -> None:
    write(tmp_path, names, [blocks(*one) for one in values], [blocks(*one) for one in values])
    assert [found.faults for found in check(tmp_path, reduce_zero_label)] == [[], []]


def test_what_the_validation_lacks_and_has_alone(tmp_path: Path) -> None:
    write(tmp_path, "sky,road,car", [blocks(0, 1), blocks(1)], [blocks(0, 2)])
    training, validation = check(tmp_path, False)
    assert told(training)[NOWHERE][0] is DOUBTFUL
    effect, said = told(validation)["lists with classes of the validation alone"]
    assert effect is DOUBTFUL
    assert "holds 'car'" in said
    effect, said = told(validation)[NOWHERE]
    assert effect is NOTE
    assert "('road'): not tested" in said


@pytest.mark.parametrize("flipped", [False, True])
def test_splits_of_which_one_is_numbered_from_0(tmp_path: Path, flipped: bool) -> None:
    maps = ([blocks(0, 1, 2)], [blocks(1, 2, 3)])
    write(tmp_path, "1 sky,2 road,3 car", *(maps[::-1] if flipped else maps))
    _, validation = check(tmp_path, True)
    effect, said = told(validation)["splits that are numbered otherwise than the other"]
    assert effect is DOUBTFUL
    first, second = ("validation", "training") if flipped else ("training", "validation")
    assert f"occurs in {tmp_path / 'annotations' / first}, 3 and not 0 in {tmp_path / 'annotations' / second}" in said


@pytest.mark.parametrize(("values", "effect"), [([0], DOUBTFUL), ([0, 255], STOPS)])
def test_scores_of_one_class_are_not_left_without_a_word(tmp_path: Path, values: list[int], effect: Effect) -> None:
    write(tmp_path, "background,polyp", [blocks(0, 1)], [blocks(*values)])
    found, said = told(check(tmp_path, False)[1])[ALONE]
    assert found is effect
    assert "a mIoU of 1 says nothing" in said


def test_a_sample_is_called_one_and_stops_nothing_by_what_it_lacks(tmp_path: Path) -> None:
    write(tmp_path, "sky,road,car", [blocks(0), blocks(1, 2), blocks(0)], [blocks(0, 1, 2)])
    training, _ = check(tmp_path, False, count=2)
    effect, said = told(training)[ALONE]
    assert effect is DOUBTFUL
    assert "2 label maps that were looked at" in said
    assert check(tmp_path, False)[0].faults == []


def nearest(image: Image.Image) -> Image.Image:
    return image.resize((200, 150), Image.Resampling.NEAREST)


def bilinear(image: Image.Image) -> Image.Image:
    return image.resize((200, 150), Image.Resampling.BILINEAR)


@pytest.mark.parametrize(("resize", "smooth"), [(nearest, False), (bilinear, True)])
def test_edges_that_a_resizing_made(tmp_path: Path, resize: Callable[[Image.Image], Image.Image], smooth: bool) -> None:
    scene = np.random.default_rng(0).integers(0, 12, (6, 8)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    label = np.array(resize(Image.fromarray(scene)))
    write(tmp_path, ",".join(f"c{index}" for index in range(12)), [label], [label])
    kinds = [fault.kind for fault in check(tmp_path, False)[0].faults]
    assert kinds == ["label maps whose edges run smoothly"] * smooth


def test_palettes_that_number_the_colours_anew_in_each_file(tmp_path: Path) -> None:
    write(tmp_path, "ground,cat,dog", [blocks(0, 1, 2)] * 3, [blocks(0, 1, 2)])
    colours = {"p0": [0, 0, 0, 200, 0, 0, 0, 200, 0], "p1": [0, 0, 0, 0, 200, 0, 200, 0, 0]}
    for name, palette in {**colours, "p2": colours["p0"]}.items():
        path = tmp_path / "annotations/training" / f"{name}.png"
        image = Image.open(path)
        image.putpalette(palette)
        image.save(path)
        assert Image.open(path).mode == "P"
    (fault,) = check(tmp_path, False)[0].faults
    assert (fault.kind, fault.effect) == ("label maps with another palette", DOUBTFUL)
    assert "p1.png shows label 1 in the colour (0, 200, 0)" in str(fault)


@pytest.mark.parametrize("swapped", [False, True])
def test_palettes_that_differ_between_the_splits(tmp_path: Path, swapped: bool) -> None:
    write(tmp_path, "ground,cat,dog", [blocks(0, 1, 2)], [blocks(0, 1, 2)])
    palettes = ([0, 0, 0, 200, 0, 0, 0, 200, 0], [0, 0, 0, 0, 200, 0, 200, 0, 0])
    for split, palette in zip(("training", "validation"), palettes if swapped else palettes[:1] * 2, strict=True):
        path = tmp_path / "annotations" / split / "p0.png"
        image = Image.open(path)
        image.putpalette(palette)
        image.save(path)
    training, validation = check(tmp_path, False)
    assert not training.faults
    assert len(validation.faults) == swapped
    for fault in validation.faults:
        assert (fault.kind, fault.effect) == ("splits with another palette than the other", DOUBTFUL)
        assert "shows label 1 in the colour (0, 200, 0)" in str(fault)
    _, *found = find_data(config_of(tmp_path, False), ("training", "validation"))
    assert [list(map(str, split.faults)) for split in found] == [[], list(map(str, validation.faults))]


def test_one_folder_of_label_maps_for_two_of_pictures(tmp_path: Path) -> None:
    write(tmp_path, "ground,cat", [blocks(0, 1)], [blocks(1, 0)])
    config = config_of(tmp_path, False)
    for config.data.val_labels, kinds in (
        ("annotations/validation", []),
        ("annotations/training", ["splits of other pictures with the same label maps"]),
    ):
        _, validation = check_data(config.data, read_class_list(config.data))
        assert [fault.kind for fault in validation.faults] == kinds
        _, _, found = find_data(config, ("training", "validation"))
        assert list(map(str, found.faults)) == list(map(str, validation.faults))
    assert str(tmp_path / "annotations/training") in str(validation.faults[0])


@pytest.mark.parametrize(("values", "said"), [((0, 1, 2), True), ((0, 1, 255), False), ((1, 2, 3), False)])
def test_ade20ks_names_count_from_1_in_its_label_maps(tmp_path: Path, values: tuple[int, ...], said: bool) -> None:
    write(tmp_path, "", [blocks(*values)], [blocks(*values)])
    (tmp_path / "classes.txt").unlink()
    options = config_of(tmp_path, False).data
    options.classes = "ade20k"
    training, _ = check_data(options, read_class_list(options))
    assert ("In ADE20K's label maps 0 means other, not 'wall'" in told(training)[NOWHERE][1]) is said


@pytest.mark.parametrize(("name", "how"), [("p0.png", {"format": "JPEG"}), ("p0.tif", {"compression": "jpeg"})])
def test_label_maps_that_are_jpeg_inside(tmp_path: Path, name: str, how: dict[str, str]) -> None:
    write(tmp_path, "ground,cat", [blocks(0, 1)], [blocks(0, 1)])
    labels = tmp_path / "annotations/training"
    image = Image.open(labels / "p0.png").copy()
    (labels / "p0.png").unlink()
    image.save(labels / name, quality=100, **how)
    training, _ = check(tmp_path, False)
    assert [(fault.kind, fault.effect) for fault in training.faults] == [("label maps that are JPEG inside", STOPS)]
    with pytest.raises(UserError, match="is compressed as JPEG, whatever its ending"):
        find_data(config_of(tmp_path, False), ("training",))


@pytest.mark.parametrize("same", [False, True])
def test_one_picture_with_two_label_maps(tmp_path: Path, same: bool) -> None:
    write(tmp_path, "ground,cat", [blocks(0, 1), blocks(0, 1) if same else blocks(1, 0)], [blocks(0, 1)])
    images = tmp_path / "images/training"
    (images / "p1.png").write_bytes((images / "p0.png").read_bytes())
    training, _ = check(tmp_path, False)
    (fault,) = training.faults
    expected = ("pictures that are there more than once", NOTE) if same else ("pictures with two label maps", DOUBTFUL)
    assert (fault.kind, fault.effect) == expected
    assert same or "p1.png and" in str(fault)
    _, found = find_data(config_of(tmp_path, False), ("training",))
    assert list(map(str, found.faults)) == [str(fault).replace("the same pixels", "the same bytes")]  # at a start


def test_label_maps_as_jpeg_are_named(tmp_path: Path) -> None:
    write(tmp_path, "ground,cat", [blocks(0, 1)] * 2, [blocks(0, 1)])
    path = tmp_path / "annotations/training/p1.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()
    with pytest.raises(
        UserError, match=r"p1\.png has no label map: .*p1\.jpg has another ending .*export it anew as PNG"
    ):
        find_data(config_of(tmp_path, False), ("training",))
    (tmp_path / "annotations/training/p0.png").unlink()
    with pytest.raises(
        UserError, match=r"holds no label map; .*Of another ending is p1\.jpg.*JPEG changes class indices"
    ):
        find_data(config_of(tmp_path, False), ("training",))


def test_a_list_that_is_not_the_datas_own_is_named(tmp_path: Path) -> None:
    write(tmp_path, "", [blocks(1, 2)], [blocks(1, 2)])
    (tmp_path / "classes.txt").unlink()
    options = config_of(tmp_path, True).data
    options.classes = "ade20k"
    training, _ = check_data(options, read_class_list(options))
    assert "no pixel of 148 of the 150 classes of data.classes=ade20k (there is no " in told(training)[NOWHERE][1]
