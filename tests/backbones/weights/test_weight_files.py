"""Every kind of weight file is read; none runs code."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import mmengine.logging
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from convmae.backbones.weights.weight_files import CheckpointError, find_weights, read_weights, split_choice

STATE = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.ones(3), "count": torch.tensor(3)}
ARGS = argparse.Namespace(lr=1e-4, output_dir=Path("runs"), betas=(0.9, 0.95))


def arrays() -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in STATE.items()}


def dump(content: object, path: Path, protocol: int = 2) -> None:
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=protocol)


def mmengine_checkpoint() -> dict[str, object]:
    hub = mmengine.logging.MessageHub("test_weight_files")
    hub.update_scalar("train/loss", 1.5)
    hub.update_info("iter", 7)
    return {"meta": {"iter": 7, "seed": np.int64(3)}, "state_dict": STATE, "message_hub": hub.state_dict()}


LAYOUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "plain.pth": (lambda path: torch.save(STATE, path), ""),
    "pretrained.pth": (
        lambda path: torch.save(
            {"model": STATE, "optimizer": {"state": {}}, "epoch": 3, "scaler": {"scale": 1.0}, "args": ARGS}, path
        ),
        "'model'",
    ),
    "before_1_6.pth": (
        lambda path: torch.save({"model": STATE, "args": ARGS}, path, _use_new_zipfile_serialization=False),
        "'model'",
    ),
    "mmseg.pth": (lambda path: torch.save({"meta": {"classes": ["a"]}, "state_dict": STATE}, path), "'state_dict'"),
    "mmengine.pth": (lambda path: torch.save(mmengine_checkpoint(), path), "'state_dict'"),
    "best_of.pth": (lambda path: torch.save({"model": STATE, "best": np.float64(0.5)}, path), "'model'"),
    "nested.pth": (
        lambda path: torch.save({"model": {"state_dict": STATE}, "epoch": 1}, path),
        "'model', 'state_dict'",
    ),
    "plain.safetensors": (lambda path: save_file(STATE, path), ""),
    "renamed.bin": (lambda path: save_file(STATE, path), ""),
    "detectron2.pkl": (lambda path: dump({"model": arrays(), "__author__": "x"}, path), "'model'"),
    "detectron2_protocol_5.pkl": (lambda path: dump({"model": arrays()}, path, 5), "'model'"),
    "pickled_tensors.pkl": (lambda path: dump({"model": STATE}, path, 4), "'model'"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_reads_every_layout(name: str, tmp_path: Path) -> None:
    write, inside = LAYOUTS[name]
    path = tmp_path / name
    write(path)
    state, source = read_weights(path)
    assert source == (f"{path}, under {inside}" if inside else str(path))
    assert set(state) == set(STATE)
    for key, value in STATE.items():
        assert isinstance(state[key], (Tensor, np.ndarray))
        assert torch.equal(torch.as_tensor(state[key]), value)


class Harmful:
    """Runs a command when it is unpickled by a reader that trusts it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch {self.mark}",)


class HarmfulInside:
    """Hides a file of its own where PyTorch keeps a storage's bytes."""

    def __init__(self, file: bytes) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return torch.storage._load_from_bytes, (self.file,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "pickle in a storage", "encoder of bytes"])
def test_code_in_a_file_is_refused_and_not_run(kind: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "harmful.pth"
    content = {"model": STATE, "epoch": Harmful(mark)}
    if kind in ("zip", "legacy", "pickle in a storage"):
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
        if kind == "pickle in a storage":
            dump({"model": {"a": HarmfulInside(path.read_bytes())}}, path)
    elif kind == "pickle":
        dump(content, path)
    else:
        path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.")
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert str(path) in message
    assert "refused" in message
    assert "system" in message or kind == "encoder of bytes"
    assert "\n" not in message
    assert not mark.exists()
    with path.open("rb") as file:  # the test itself can fail: a trusting reader does run it
        if kind == "pickle":
            pickle.load(file)
            assert mark.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        read_weights(tmp_path / "module.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.pth", b"hello world", "begins with b'hello wo'"),
        ("empty.pth", b"", "is an empty file"),
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "damaged"),
        ("cut.pth", b"PK\x03\x04abc", "damaged"),
        ("cut.pkl", pickle.dumps({"model": {}}, 4)[:-5], "damaged"),
    ],
)
def test_what_is_no_checkpoint_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_weights(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds one list"), ({"epoch": 3, "lr": 0.1}, "holds 'epoch', 'lr'"), ({}, "holds nothing")],
)
def test_a_file_without_weights_is_named(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "a.pth")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file at .*none\.pth"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="a folder at"):
        read_weights(tmp_path)


def named(value: float, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.full_like(tensor, value) for name, tensor in STATE.items()}


SEVERAL: dict[str, object] = {
    "teacher": {
        "student": named(1, "module."),
        "teacher": named(2),
        "dino_loss": {"center": torch.zeros(4)},
        "epoch": 3,
    },
    "params_ema": {"params": named(1), "params_ema": named(2)},
    "state_dict_ema": {"state_dict": named(1), "state_dict_ema": named(2), "arch": "convvit_tiny"},
    "model_ema": {"model": named(1), "model_ema": named(2), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "ema.shadow": {"net": named(1), "ema": {"decay": 0.9, "shadow": named(2)}},
    "model.teacher": {"model": {"student": named(1), "teacher": named(2)}},
    "teacher.backbone": {"student": named(1, "backbone."), "teacher": named(2, "backbone.") | named(3, "head.")},
    "target_encoder": {"state_dict": named(1, "encoder.") | named(2, "target_encoder.")},
    "target.encoder": {"target.encoder": named(2), "encoder": named(1)},
    "momentum": named(1, "base.") | named(2, "momentum."),
    "weights": {"weights": {"state_dict": named(2)}, "other": named(1)},
}


@pytest.mark.parametrize("key", SEVERAL)
def test_a_key_chooses_among_several_models(key: str, tmp_path: Path) -> None:
    torch.save(SEVERAL[key], tmp_path / "several.pth")
    state, source = read_weights(f"{tmp_path / 'several.pth'}:{key}")
    assert {name: float(value.float().mean()) for name, value in state.items()} == dict.fromkeys(STATE, 2.0)
    assert source.startswith(f"{tmp_path / 'several.pth'}, under '{key}'")


def test_safetensors_and_pickles_have_parts_too(tmp_path: Path) -> None:
    save_file(named(1, "student.") | named(2, "teacher."), tmp_path / "a.safetensors")
    dump({"student": arrays(), "teacher": {n: v + 1 for n, v in arrays().items()}}, tmp_path / "a.pkl")
    assert float(read_weights(f"{tmp_path / 'a.safetensors'}:teacher")[0]["a.bias"][0]) == 2
    assert float(read_weights(f"{tmp_path / 'a.pkl'}:teacher")[0]["a.bias"][0]) == 2


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("teachers", "has nothing under 'teachers'; found 'student', 'teacher', 'dino_loss', 'epoch'"),
        ("teacher.a.weights", "has nothing under 'teacher.a.weights'; found 'a', 'count'"),
        ("epoch", "holds one int under 'epoch'; expected tensors by name"),
        ("teacher.a.bias", "holds one Tensor under 'teacher.a.bias'"),
    ],
)
def test_a_key_that_is_not_there_is_answered_by_those_that_are(key: str, words: str, tmp_path: Path) -> None:
    torch.save(SEVERAL["teacher"], tmp_path / "several.pth")
    with pytest.raises(CheckpointError, match=words.replace(".", r"\.")):
        read_weights(f"{tmp_path / 'several.pth'}:{key}")


def test_several_models_and_no_key_are_refused_with_the_keys(tmp_path: Path) -> None:
    torch.save(SEVERAL["teacher"], tmp_path / "several.pth")
    with pytest.raises(CheckpointError, match=r"'epoch'; expected one model, or .*: FILE:student or FILE:teacher$"):
        read_weights(tmp_path / "several.pth")


@pytest.mark.parametrize(
    "beside", [{"acc": 0.3}, {"acc": torch.tensor(0.3)}, {"rng": torch.arange(5), "loss": {"c": torch.ones(2)}}]
)
@pytest.mark.parametrize("key", ["net", "encoder"])
def test_one_model_under_any_key_is_found(key: str, beside: dict[str, object], tmp_path: Path) -> None:
    torch.save({key: STATE, **beside}, tmp_path / "one.pth")
    state, source = read_weights(tmp_path / "one.pth")
    assert set(state) == set(STATE)
    assert source.endswith(f"under '{key}'")


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_the_usual_weights_are_taken_and_others_beside_them_named(key: str, tmp_path: Path) -> None:
    torch.save(SEVERAL[key], tmp_path / "both.pth")
    state, source = read_weights(tmp_path / "both.pth")
    assert float(state["a.bias"][0]) == 1
    assert source.endswith(f"(it holds others too: FILE:{key})")
    torch.save({"model": STATE, "state_dict": STATE}, tmp_path / "same.pth")  # as this project's own files are
    assert read_weights(tmp_path / "same.pth")[1].endswith("under 'state_dict'")


def test_a_path_that_exists_is_a_file_whatever_its_colons(tmp_path: Path) -> None:
    odd = tmp_path / "run:best.pth"
    torch.save(SEVERAL["params_ema"], odd)
    assert split_choice(odd) == (odd, "")
    assert split_choice(f"{odd}:params") == (odd, "params")
    torch.save(STATE, tmp_path / "a.pth")
    torch.save(SEVERAL["params_ema"], tmp_path / "a.pth:params")
    assert split_choice(tmp_path / "a.pth:params") == (tmp_path / "a.pth:params", "")
    for missing in ("C:\\none.pth", "C:/none.pth", f"{tmp_path}/none.pth:teacher", f"{tmp_path}:teacher", ""):
        assert split_choice(missing) == (Path(missing), "")
    with pytest.raises(CheckpointError, match=r"no file at .*none\.pth:teacher"):
        read_weights(tmp_path / "none.pth:teacher")


def test_a_changed_bit_is_noticed(tmp_path: Path) -> None:
    torch.save({"model": {"a.weight": torch.arange(200.0)}}, tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    content[content.index(torch.arange(200.0).numpy().tobytes()) + 101] ^= 8
    (tmp_path / "a.pth").write_bytes(content)
    assert (
        torch.load(tmp_path / "a.pth", weights_only=True)["model"]["a.weight"].isfinite().all()
    )  # PyTorch takes no notice
    with pytest.raises(CheckpointError, match=r"is damaged .*CRC.*data/0"):
        read_weights(tmp_path / "a.pth")


def test_a_file_without_sums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert set(read_weights(tmp_path / "a.pth")[0]) == set(STATE)


def test_containers_in_containers_are_looked_into_a_few_times_alone() -> None:
    class Numbers(dict):
        looked = 0

        def items(self):  # type: ignore[override]
            self.looked += 1
            return super().items()

    inner = Numbers({str(number): number for number in range(9)})
    content: dict = inner
    for _ in range(6):
        content = {"model": content}
    with pytest.raises(CheckpointError, match="holds 'model'; expected tensors by name"):
        find_weights(content, "a.pth")
    assert inner.looked <= 4
