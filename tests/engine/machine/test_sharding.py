"""FSDP2 gives what DDP gives, its files are those of any run, and what can't be split is told."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launch import forked, two_processes
from PIL import Image
from torch import nn

from convmae.engine.config import load_config, save_config
from convmae.engine.errors import UserError
from convmae.engine.machine.sharding import Sharding, blocks, check_sharding, in_blocks, whole
from convmae.engine.seeding import INIT, seed_all
from convmae.engine.training.scalars import read_scalars
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.train import train
from convmae.tools import pretrain


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def config_of(pictures: Path, *more: str) -> PretrainingConfig:
    options = [
        f"data.root={pictures}", "data.workers=0", "data.batch_size=4", "model.img_size=32", "model.groups=2",
        "schedule.epochs=null", "schedule.steps=4", "schedule.warmup=1", "schedule.save_every=2", "runtime.log_every=1",
        "runtime.precision=fp32", "runtime.device=cpu", "optim.average=0.9", "optim.clip_grad=1.0",
    ]  # fmt: skip
    return load_config(PretrainingConfig, "fastconvmae_tiny_mor_96px.yaml", [*options, *more])


def pretrained(pictures: Path, work_dir: Path, *more: str, resume: bool = False) -> None:
    work_dir.mkdir(exist_ok=True)
    seed_all(0, INIT)
    train(config_of(pictures, *more), work_dir, resume)


def in_two(pictures: Path, work_dir: Path, *more: str, resume: bool = False) -> None:
    forked(lambda rank: pretrained(pictures, work_dir, *more, resume=resume), work_dir.parent)


def content(work_dir: Path, step: int = 4) -> dict[str, Any]:
    return torch.load(work_dir / f"step_{step}.pth", weights_only=True)


def without_keys(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leaves out keys' biases, which softmax takes out again: their gradient is rounding, of which AdamW makes whole steps."""
    return {name: value.view(3, -1)[::2] if name.endswith("qkv.bias") else value for name, value in state.items()}


def assert_equal(left: dict[str, Any], right: dict[str, Any], within: float) -> None:
    close = partial(torch.testing.assert_close, rtol=0, atol=within)
    close(without_keys(left["state_dict"]), without_keys(right["state_dict"]))
    close(without_keys(left["average"]["values"]), without_keys(right["average"]["values"]))
    assert left["optimizer"]["param_groups"] == right["optimizer"]["param_groups"]
    close(left["optimizer"]["state"], right["optimizer"]["state"])


def test_split_pretraining_equals_ddp_and_its_checkpoint_is_any_runs(pictures: Path, tmp_path: Path) -> None:
    in_two(pictures, tmp_path / "ddp")
    in_two(pictures, tmp_path / "split", "runtime.shard=true")
    rows, others = (read_scalars(tmp_path / name) for name in ("ddp", "split"))
    for row, other in zip(rows, others, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], abs=1e-6)
    assert_equal(content(tmp_path / "ddp"), content(tmp_path / "split"), 1e-6)
    assert (tmp_path / "split" / "report" / "index.html").is_file()
    left, right = (torch.load(tmp_path / name / "pretrained.pth", weights_only=True) for name in ("ddp", "split"))
    torch.testing.assert_close(without_keys(left["model"]), without_keys(right["model"]), rtol=0, atol=1e-6)
    # Continued by one process, and split what others began: all end alike.
    for name, start in (("one", "split"), ("again", "ddp")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "step_2.pth").write_bytes((tmp_path / start / "step_2.pth").read_bytes())
    pretrained(pictures, tmp_path / "one", resume=True)
    in_two(pictures, tmp_path / "again", "runtime.shard=true", resume=True)
    assert_equal(content(tmp_path / "ddp"), content(tmp_path / "again"), 1e-6)
    assert_equal(content(tmp_path / "ddp"), content(tmp_path / "one"), 1e-5)


def test_a_split_encoder_is_watched_as_a_whole_one(pictures: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(pictures.iterdir())):
        for split in ("train", "val"):
            folder = tmp_path / "probe" / split / str(number % 2)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).write_bytes(path.read_bytes())
    watched = ["probe.every=2", f"probe.root={tmp_path / 'probe'}", "probe.neighbours=3"]
    in_two(pictures, tmp_path / "ddp", *watched)
    in_two(pictures, tmp_path / "split", *watched, "runtime.shard=true")
    in_two(pictures, tmp_path / "plain", "runtime.shard=true")
    assert_equal(content(tmp_path / "split"), content(tmp_path / "plain"), 0)  # it was looked at, and no more
    found = [[row for row in read_scalars(tmp_path / name) if "knn_top1" in row] for name in ("ddp", "split")]
    assert [row["step"] for row in found[1]] == [2, 4]
    for row, other in zip(*found, strict=True):
        assert other["knn_top1"] == row["knn_top1"]
        assert other["rankme"] == pytest.approx(row["rankme"], rel=1e-4)
    best = [torch.load(tmp_path / name / "best_encoder.pth", weights_only=True) for name in ("ddp", "split")]
    assert best[0]["meta"]["step"] == best[1]["meta"]["step"]
    torch.testing.assert_close(*(without_keys(one["state_dict"]) for one in best), rtol=0, atol=1e-6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler g++")
@pytest.mark.parametrize("more", [[], ["runtime.checkpoint_activations=true"]], ids=["", "recomputed"])
def test_a_split_model_is_compiled_by_blocks_with_the_same_numbers(
    pictures: Path, tmp_path: Path, more: list[str]
) -> None:
    options = ["targets=[{teacher: ema}, {teacher: pixels}]", "schedule.steps=2", *more]
    save_config(config_of(pictures, *options), tmp_path / "recipe.yaml")
    # Not in forks of this process, whose compiler another test may have used, with threads of its own.
    words = ["-m", "convmae.tools.pretrain", "--config", "recipe.yaml", "--shard", "--work-dir"]
    for name, flags in (("plain", []), ("compiled", ["--compile"])):
        done = two_processes(*words, name, *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert_equal(content(tmp_path / "plain", 2), content(tmp_path / "compiled", 2), 1e-4)
    rows, others = (read_scalars(tmp_path / name) for name in ("plain", "compiled"))
    for row, other in zip(rows, others, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], abs=1e-5)


def test_blocks_are_compiled_in_the_place_of_what_holds_them() -> None:
    model = Tied()
    methods = in_blocks([model.forward, model.head.forward, model.forward])
    assert [method.__self__ for method in methods] == [*model.blocks3, *model.decoder_blocks]  # type: ignore[attr-defined]
    assert {method.__name__ for method in methods} == {"forward"}


def test_a_split_run_repeats_to_the_bit(pictures: Path, tmp_path: Path) -> None:
    in_two(pictures, tmp_path / "whole", "runtime.shard=true")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "step_2.pth").write_bytes((tmp_path / "whole" / "step_2.pth").read_bytes())
    in_two(pictures, tmp_path / "parts", "runtime.shard=true", resume=True)
    assert_equal(content(tmp_path / "whole"), content(tmp_path / "parts"), 0)


class Tied(nn.Module):
    """Blocks that share a table with what stands beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks3 = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.decoder_blocks = nn.ModuleList([nn.Linear(5, 5)])
        self.others = nn.ModuleList([nn.Linear(5, 5)])
        self.head = nn.Linear(5, 5)
        self.head.weight = self.others[0].weight
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in (*self.blocks3, *self.decoder_blocks, *self.others):
            x = block(x)
        return self.head(x - self.mean)


@pytest.mark.parametrize("world", [2, 4, 7])  # with more of them than there are rows some have nothing of a weight
def test_a_model_is_split_by_blocks_and_made_whole_again(world: int, tmp_path: Path) -> None:
    def undone(rank: int) -> tuple[int, bool, bool, bool]:
        torch.manual_seed(0)
        model = Tied()
        model.head.bias.requires_grad_(False)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        inputs = torch.ones(2, 5)
        expected = model(inputs)
        sharding = Sharding(model, torch.device("cpu"))
        held = sum(parameter.to_local().numel() for parameter in model.parameters())
        alike = torch.equal(model(inputs), expected)
        assert all(torch.equal(whole(value), before[name]) for name, value in model.state_dict().items())
        sharding.undo()
        after = model.state_dict()
        same = after.keys() == before.keys() and all(torch.equal(after[name], value) for name, value in before.items())
        plain = type(model) is Tied and all(type(one) is nn.Parameter for one in model.parameters())
        kept = model.head.weight is model.others[0].weight and not model.head.bias.requires_grad
        alone = rank == 1 or torch.equal(model(inputs), expected)  # without the other process
        return held, alike, same and plain, kept and alone

    assert len(blocks(Tied())) == 4
    parts = forked(undone, tmp_path, world)
    assert [part[1:] for part in parts] == [(True, True, True)] * world
    assert sum(part[0] for part in parts) == sum(parameter.numel() for parameter in Tied().parameters())


def test_what_cannot_be_split_is_told(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = [
        f"data.root={pictures}",
        "data.workers=0",
        "data.batch_size=2",
        "model.img_size=32",
        "runtime.device=cpu",
    ]
    argv = ["--config", "convmae_tiny_96px.yaml", "--work-dir", str(tmp_path / "run"), "--shard"]
    assert pretrain.main([*argv, "--cfg-options", *options]) == 2
    assert "runtime.shard splits a model over several processes, and this is one" in capsys.readouterr().err

    def refused(rank: int) -> str:
        said = []
        for precision, mode in ((torch.float16, ""), (None, "reduce-overhead")):
            with pytest.raises(UserError) as error:
                check_sharding(precision, mode)
            said.append(str(error.value))
        check_sharding(torch.bfloat16, "default")
        return " ".join(said)

    for said in forked(refused, tmp_path):
        assert "fp16 don't go together" in said
        assert "runtime.compile_mode=reduce-overhead don't go together" in said
