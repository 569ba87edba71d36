"""Fine-tuning on a frozen stem or encoder: whole runs, in parts, and what is refused."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from equality import assert_frozen
from small_states import prefixed, write_encoder

from convmae.backbones import FAMILIES, ViT, load_checkpoint
from convmae.classification.config import FinetuningConfig
from convmae.classification.train import finetune
from convmae.engine.config import load_config
from convmae.engine.errors import UserError


def tiny_config(folders: Path, *overrides: str) -> FinetuningConfig:
    options = [
        f"data.root={folders}", "model.img_size=32", "data.batch_size=8", "data.workers=0", "model.drop_path=0.3",
        "optim.lr=1e-2", "schedule.epochs=null", "schedule.steps=2", "schedule.policy=constant", "schedule.warmup=0",
        "schedule.eval_every=0", "schedule.save_every=1", "runtime.device=cpu", "runtime.precision=fp32", *overrides,
    ]  # fmt: skip
    return load_config(FinetuningConfig, "finetune_tiny_96px.yaml", options)


@pytest.mark.parametrize(
    ("arch", "what", "frozen", "overrides"),
    [
        ("convvit", "stem", r"model\.(patch_embed[1-4]\.|blocks[12]\.|pos_embed$)", ["optim.average=0.9"]),
        ("convvit", "encoder", r"model\.(patch_embed|blocks|pos_embed)", ["runtime.precision=bf16"]),
        ("vit", "stem", r"model\.(patch_embed\.|cls_token$|pos_embed$)", []),
        ("vit", "encoder", r"model\.(patch_embed|blocks|cls_token|pos_embed)", ["data.accumulate=2"]),
    ],
)
def test_what_is_frozen_stays_as_its_weights_have_it(
    arch: str, what: str, frozen: str, overrides: list[str], folders: Path, tmp_path: Path
) -> None:
    init = tmp_path / "encoder.pth"
    if arch == "vit":
        torch.manual_seed(1)
        torch.save({"model": ViT("tiny", num_classes=0, img_size=32).state_dict()}, init)
    else:
        write_encoder(init, 32)
    start = FAMILIES[arch]("tiny", 0, 32)
    load_checkpoint(start, init)

    def run(work_dir: Path, steps: int, resume: bool) -> None:
        options = [
            f"model.arch={arch}",
            f"model.freeze={what}",
            f"model.init={init}",
            f"schedule.steps={steps}",
            *overrides,
        ]
        finetune(tiny_config(folders, *options), work_dir, resume)

    assert_frozen(run, tmp_path, prefixed(start.state_dict(), "model."), frozen)


def test_a_run_is_not_continued_with_other_parts_frozen(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    init = write_encoder(tmp_path / "encoder.pth", 32)
    sizes = {}
    for before, now, said in (
        (
            "none",
            "encoder",
            r"training trained there what this run keeps frozen, model\.blocks1\.0\.attn\.bias and \d+ more",
        ),
        (
            "encoder",
            "stem",
            r"training kept frozen there what this run trains, model\.blocks3\.0\.attn\.proj\.bias and \d+ more",
        ),
    ):
        work_dir = tmp_path / before
        work_dir.mkdir()
        finetune(tiny_config(folders, f"model.freeze={before}", f"model.init={init}"), work_dir, resume=False)
        sizes[before] = (work_dir / "step_2.pth").stat().st_size
        files = {path: path.read_bytes() for path in work_dir.glob("*.*")}
        config = tiny_config(folders, f"model.freeze={now}", f"model.init={init}", "schedule.steps=3")
        with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=said) as refusal:
            finetune(config, work_dir, resume=True)
        assert "expected model.freeze as it was" in str(refusal.value)
        assert f"model.freeze {now}, not {before} as before" in caplog.text
        assert files == {path: path.read_bytes() for path in work_dir.glob("*.*")}
    assert sizes["encoder"] < 0.4 * sizes["none"]  # weights alone, where there were two moments beside them


def test_a_classifier_of_a_frozen_run_goes_on_without_freezing_in_a_new_one(folders: Path, tmp_path: Path) -> None:
    init = write_encoder(tmp_path / "encoder.pth", 32)
    for name in ("frozen", "free"):
        (tmp_path / name).mkdir()
    finetune(tiny_config(folders, "model.freeze=encoder", f"model.init={init}"), tmp_path / "frozen", resume=False)
    init.unlink()
    shutil.move(tmp_path / "frozen" / "model.pth", init)
    finetune(tiny_config(folders, f"model.init={init}", "schedule.steps=1"), tmp_path / "free", resume=False)
    first, second = (torch.load(path, weights_only=True)["model"] for path in (init, tmp_path / "free" / "model.pth"))
    assert not torch.equal(first["blocks1.0.conv1.weight"], second["blocks1.0.conv1.weight"])


def test_random_weights_are_not_frozen(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.freeze is encoder and model\.init empty"):
        finetune(tiny_config(folders, "model.freeze=encoder", "data.root=nowhere"), tmp_path, resume=False)
