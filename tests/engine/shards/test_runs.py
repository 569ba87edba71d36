"""Runs on shards end with the weights of runs on the folder, bit for bit: resumed, in many processes, with a bad picture."""

import json
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fsspec
import pytest
import torch
from equality import assert_processes_equal_one
from PIL import Image

from convmae.engine.config import load_config
from convmae.engine.pictures import scenes
from convmae.engine.shards import cache, places, stores
from convmae.engine.shards.index import INDEX
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.train import train
from convmae.tools import check_data, finetune, knn, predict, pretrain, train_seg, visualize

Pack = Callable[..., Path]
OPTIONS = ["schedule.epochs=null", "schedule.steps=6", "schedule.warmup=1", "runtime.log_every=1", "runtime.precision=fp32",
           "runtime.device=cpu", "data.batch_size=4", "model.img_size=32"]  # fmt: skip


@pytest.fixture
def pictures(tree: Path) -> Path:
    """The tree without what a run refuses; a broken picture is skipped."""
    for name in ("deep.png", "planes.tif"):
        (tree / "a" / name).unlink()
    (tree / "notes.txt").unlink()
    return tree


@pytest.fixture
def memory(pictures: Path, tmp_path: Path, packed: Pack, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the same pictures in fsspec's memory, in a shard each, of which nothing is kept."""
    monkeypatch.setenv(cache.SIZE, "0")
    system = fsspec.filesystem("memory")
    for path in packed(pictures, tmp_path / "each", "--per-shard", "1").iterdir():
        system.pipe_file(f"/runs/shards/{path.name}", path.read_bytes())
    places._opened.pop("memory://runs/shards", None)
    return "memory://runs/shards"


def run(root: Path | str, work_dir: Path, *options: str, status: int = 0, resume: bool = False) -> dict:
    argv = [
        "--config",
        "fastconvmae_tiny_96px.yaml",
        "--work-dir",
        str(work_dir),
        *["--resume"] * resume,
        "--cfg-options",
    ]
    found = pretrain.main([*argv, f"data.root={root}", "data.bad_share=0.2", "data.workers=0", *OPTIONS, *options])
    assert found == status
    path = work_dir / "pretrained.pth"
    return torch.load(path, weights_only=True)["model"] if path.is_file() else {}


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() != set() and all(torch.equal(left[name], right[name]) for name in left)


def test_pretraining_from_shards_is_that_from_the_folder(
    pictures: Path, tmp_path: Path, packed: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(pictures, tmp_path / "folder", "schedule.save_every=3")
    shards = packed(pictures, tmp_path / "shards", "--per-shard", "4")
    assert same(run(shards, tmp_path / "run", "data.workers=2", "schedule.save_every=3"), expected)
    for name in ("folder", "run"):
        unread = json.loads((tmp_path / name / "metrics.json").read_text())["unreadable"]
        assert [Path(one).name for one in unread["pictures"]] == ["broken.jpg"]
    assert (tmp_path / "run" / "report" / "index.html").stat().st_size > 10_000
    # A run on the folder goes on from its shards.
    for name in ("step_6.pth", "pretrained.pth"):
        (tmp_path / "folder" / name).unlink()
    monkeypatch.chdir(tmp_path)
    assert same(run("shards", tmp_path / "folder", "schedule.save_every=3", resume=True), expected)


def test_a_shard_that_vanishes_ends_the_run_with_a_checkpoint_to_go_on_from(
    pictures: Path, tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    expected = run(pictures, tmp_path / "folder", "schedule.save_every=6")
    real, reads = stores.FarStore.read, list[str]()
    capsys.readouterr()

    def read(self: stores.FarStore, file: str, start: int, stop: int) -> bytes:
        nonlocal reads
        reads += [file] * (multiprocessing.parent_process() is not None)
        if len(reads) > 4:  # of a loader process
            fsspec.filesystem("memory").rm("/runs/shards/shard-000005.tar")
            return real(self, "shard-000005.tar", start, stop)
        return real(self, file, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(stores.FarStore, "read", read)
        run(memory, tmp_path / "run", "schedule.save_every=6", "data.workers=2", status=2)
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert said.err.count("can't be read (it is not there any more); expected it beside its") == 1
    assert not (tmp_path / "run" / "pretrained.pth").exists()
    assert list((tmp_path / "run").glob("step_*.pth"))
    assert same(run(memory, tmp_path / "run", "schedule.save_every=6", resume=True), expected)


def test_shards_that_do_not_fit_are_refused_before_a_run(
    pictures: Path, tmp_path: Path, packed: Pack, capsys: pytest.CaptureFixture
) -> None:
    shards = packed(pictures, tmp_path / "shards", "--per-shard", "4")
    whole = (shards / "shard-000001.tar").read_bytes()
    (shards / "shard-000001.tar").write_bytes(whole[:2000])
    run(shards, tmp_path / "run", status=2)
    assert "shard-000001.tar is cut off" in capsys.readouterr().err
    (shards / "shard-000001.tar").write_bytes(whole)
    (shards / INDEX).write_bytes((shards / INDEX).read_bytes()[:-9])
    run(shards, tmp_path / "run", status=2)
    assert "is no index of shards, or is cut off" in capsys.readouterr().err
    run("memory://no/such/place", tmp_path / "run", status=2)
    assert "There are no shards at memory://no/such/place" in capsys.readouterr().err
    run("abc://bucket/shards", tmp_path / "run", status=2)
    assert "Protocol not known: abc" in capsys.readouterr().err


def test_two_processes_on_shards_equal_one(tmp_path: Path, memory: str) -> None:
    options = [
        f"data.root={memory}",
        *OPTIONS,
        "data.bad_share=0.2",
        "data.workers=0",
        "data.accumulate=2",
        "model.groups=2",
    ]
    config = load_config(PretrainingConfig, "fastconvmae_tiny_96px.yaml", [*options, "schedule.steps=3"])
    assert_processes_equal_one(partial(train, config, resume=False), tmp_path)


def test_class_folders_and_probes_from_shards_are_those_from_the_folder(
    classes: Path, tmp_path: Path, packed: Pack
) -> None:
    whole = packed(classes, tmp_path / "whole", "--per-shard", "4")
    parts = tmp_path / "parts"
    for split in ("train", "val"):
        packed(classes / split, parts / split)
    (parts / "classes.txt").write_bytes((classes / "classes.txt").read_bytes())
    found = []
    for root in (classes, whole, parts):
        work_dir = tmp_path / f"run_{root.name}"
        argv = [
            "--config",
            "finetune_tiny_96px.yaml",
            "--work-dir",
            str(work_dir),
            "--cfg-options",
            f"data.root={root}",
        ]
        assert finetune.main([*argv, "data.workers=0", "schedule.steps=3", *OPTIONS]) == 0
        found.append(torch.load(work_dir / "model.pth", weights_only=True))
        init = f"model.init={work_dir / 'model.pth'}"
        argv = ["--config", "probe_96px.yaml", "--work-dir", f"{work_dir}_knn", "--cfg-options", f"data.root={root}"]
        assert knn.main([*argv, init, "data.workers=0", "model.img_size=32", "runtime.device=cpu"]) == 0
        page = (work_dir / "report" / "index.html").read_text()
        assert "The first" in page
    for other in found[1:]:
        assert same(other["model"], found[0]["model"])
        assert other["meta"] == found[0]["meta"]
    scores = [json.loads((tmp_path / f"run_{root.name}_knn" / "metrics.json").read_text()) for root in (classes, whole)]
    assert scores[0] == scores[1]


def test_tools_that_take_a_folder_of_pictures_take_shards(
    pictures: Path, classes: Path, tmp_path: Path, packed: Pack, memory: str, capsys: pytest.CaptureFixture
) -> None:
    shards = packed(pictures, tmp_path / "shards")
    said = []
    capsys.readouterr()
    for root in (pictures, shards, memory):
        check = ["pictures", str(root), "--work-dir", str(tmp_path / "check"), "--overwrite"]
        assert check_data.main([*check, "--cfg-options", "data.bad_share=0.2"]) == 0
        out = capsys.readouterr().out
        assert f"data.root={root}" in out
        said.append(out.replace(str(root), "ROOT"))
    assert said[0] == said[1] == said[2]
    run(pictures, tmp_path / "run", "schedule.steps=2")
    for number, root in enumerate((pictures, memory)):
        (pictures / "a" / "broken.jpg").unlink(missing_ok=True)
        drawn = tmp_path / f"drawn{number}.png"
        argv = [
            str(tmp_path / "run" / "pretrained.pth"),
            str(root),
            "--output",
            str(drawn),
            "--limit",
            "2",
            "--size",
            "32",
        ]
        assert visualize.main(argv) == 0
    with Image.open(tmp_path / "drawn0.png") as one, Image.open(tmp_path / "drawn1.png") as other:
        assert one.tobytes() == other.tobytes()
    split = packed(classes, tmp_path / "classes_shards")
    argv = [
        "--config",
        "finetune_tiny_96px.yaml",
        "--work-dir",
        str(tmp_path / "cls"),
        "--cfg-options",
        f"data.root={split}",
    ]
    assert finetune.main([*argv, "data.workers=0", *OPTIONS, "schedule.steps=2"]) == 0
    found = []
    for root in (classes / "val", split / "val"):
        output = tmp_path / f"predicted_{root.parent.name}"
        assert predict.main(["cls", str(tmp_path / "cls" / "model.pth"), str(root), "--output", str(output)]) == 0
        found.append((output / "classes.json").read_text().replace(str(root), "ROOT"))
    assert found[0] == found[1]
    assert "ROOT/one/0.jpg" in found[0] or "one/0.jpg" in found[0]


def test_detection_and_segmentation_take_packed_pictures(
    tmp_path: Path, packed: Pack, capsys: pytest.CaptureFixture
) -> None:
    made = scenes.generate(tmp_path / "made", train=4, val=2, size=64)
    annotations = [
        f"data.{split}_annotations={made.coco / 'annotations' / f'instances_{split}2017.json'}"
        for split in ("train", "val")
    ]
    for kind, folder, options in (("coco", made.coco, annotations), ("seg", made.ade20k, [])):
        said = []
        shards = packed(folder, tmp_path / f"{kind}_shards")
        capsys.readouterr()
        for root in (folder, shards):
            argv = [
                kind,
                str(root),
                "--work-dir",
                str(tmp_path / kind),
                "--overwrite",
                "--cfg-options",
                "data.workers=0",
                *options,
            ]
            assert check_data.main(argv) == 0
            said.append(capsys.readouterr().out.replace(str(root), "ROOT").replace(str(folder), "ROOT"))
        assert said[0] == said[1]
        assert "6 pictures" in said[0] or "4 pictures" in said[0]


def test_segmentation_learns_from_an_address_as_from_the_folder(
    tmp_path: Path, packed: Pack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    made = scenes.generate(tmp_path / "made", train=4, val=2, size=64)
    system, address = fsspec.filesystem("memory"), "memory://runs/segmentation"
    for path in packed(made.ade20k, tmp_path / "seg_shards").iterdir():
        system.pipe_file(f"/runs/segmentation/{path.name}", path.read_bytes())
    assert f"data.root={address}" in (check_segmentation(address, tmp_path, capsys))
    found = []
    for root in (made.ade20k, address):
        work_dir = tmp_path / f"seg{len(found)}"
        sizes = ["data.crop=64", "data.scale=[128,64]", "inference.crop=64", "inference.stride=48", "model.size=tiny"]
        heads = ["model.decode_channels=16", "model.aux_channels=16", "data.workers=0", "schedule.steps=2"]
        argv = ["--config", "upernet_tiny_256px.yaml", "--work-dir", str(work_dir), "--cfg-options"]
        options = [one for one in OPTIONS if "img_size" not in one and "batch_size" not in one]
        assert train_seg.main([*argv, f"data.root={root}", *options, *sizes, *heads, "data.batch_size=2"]) == 0
        found.append(torch.load(work_dir / "model.pth", weights_only=True))
    assert same(found[0]["model"], found[1]["model"])
    assert found[0]["meta"] == found[1]["meta"]  # the names of the classes


def check_segmentation(root: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> str:
    capsys.readouterr()
    argv = ["seg", root, "--work-dir", str(tmp_path / "check_seg"), "--cfg-options", "data.workers=0"]
    assert check_data.main(argv) == 0
    return str(capsys.readouterr().out)
