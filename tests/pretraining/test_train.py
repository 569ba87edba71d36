"""A pretraining run: the loss falls, the weights are found by every encoder, and pictures are drawn from them."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from convmae.backbones import ConvViT, ConvViTDet, ConvViTSeg, ViT, load_checkpoint
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.recipes import shipped_recipes
from convmae.engine.training.schedule import Schedule
from convmae.pretraining import MAE, ConvMAE, FastConvMAE
from convmae.pretraining.config import PretrainingConfig, TeacherOptions
from convmae.pretraining.targets import check_targets
from convmae.pretraining.train import momentum
from convmae.pretraining.weights import load_pretrained
from convmae.tools import pretrain, visualize

RECIPES = [
    name
    for name in shipped_recipes()
    if name.startswith(("convmae", "fastconvmae", "mae", "mr_mcmae", "demo_pretraining"))
]


@pytest.fixture(scope="module", params=["fp32"])
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The work directory of a short run on striped pictures, which are easy to reconstruct; pictures lie beside it.

    In fp32, or in what a test asks for.
    """
    folder = tmp_path_factory.mktemp("pretraining")
    (folder / "pictures" / "nested").mkdir(parents=True)
    for number in range(8):
        stripes = (np.arange(64) // (2 + number) % 2 * 200).astype(np.uint8)
        picture = Image.fromarray(np.broadcast_to(stripes, (64, 64)).copy())
        picture.save(folder / "pictures" / ("nested" if number % 2 else "") / f"{number}.png")
    options = ["model.img_size=64", "data.batch_size=8", "data.workers=0", "schedule.epochs=null", "schedule.steps=30"]
    options += ["schedule.warmup=5", "optim.lr=1e-3", f"data.root={folder / 'pictures'}", "runtime.log_every=1"]
    options += ["runtime.device=cpu", f"runtime.precision={request.param}"]
    argv = ["--config", "fastconvmae_tiny_96px.yaml", "--work-dir", str(folder / "run"), "--cfg-options", *options]
    assert pretrain.main(argv) == 0
    return folder / "run"


@pytest.mark.parametrize("finished", ["fp32", "bf16"], indirect=True)
def test_the_loss_falls(finished: Path) -> None:
    losses = [json.loads(line)["loss"] for line in (finished / "scalars.jsonl").read_text().splitlines()]
    assert len(losses) == 30
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3])


def test_both_kinds_of_file_hold_the_same_weights(finished: Path) -> None:
    for name in ("pretrained", "encoder"):
        pickled = torch.load(finished / f"{name}.pth", weights_only=True)["model"]
        safe = safetensors.torch.load_file(finished / f"{name}.safetensors")
        assert pickled.keys() == safe.keys()
        assert all(torch.equal(pickled[key], safe[key]) for key in pickled)
        assert any(key.startswith("decoder_") for key in safe) == (name == "pretrained")


@pytest.mark.parametrize("cls", [ConvViT, ConvViTDet, ConvViTSeg])
@pytest.mark.parametrize("name", ["pretrained.pth", "encoder.safetensors"])
def test_every_encoder_takes_the_weights(finished: Path, cls: type, name: str) -> None:
    model = cls("tiny", img_size=96)
    report = load_checkpoint(model, finished / name)
    shared = [key for key in ConvMAE("tiny").state_dict() if key in model.state_dict()]
    assert not set(shared) & set(report.missing)
    assert report.resized == ["pos_embed"]


def test_pictures_are_drawn_from_full_weights_alone(finished: Path, capsys: pytest.CaptureFixture) -> None:
    pictures, drawn = finished.parent / "pictures", finished.parent / "drawn.png"
    argv = [str(pictures), "--output", str(drawn), "--limit", "2"]
    assert visualize.main([str(finished / "pretrained.safetensors"), *argv]) == 0
    assert Image.open(drawn).width > 4 * 288  # panels side by side
    assert visualize.main([str(finished / "pretrained.pth"), *argv]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert visualize.main([str(finished / "encoder.pth"), *argv, "--overwrite"]) == 2
    assert "holds no decoder" in capsys.readouterr().err


def test_weights_remember_how_they_were_trained(finished: Path) -> None:
    model, options = load_pretrained(finished / "pretrained.pth")
    assert (options.method, options.size, options.img_size) == ("fastconvmae", "tiny", 64)
    assert model.norm_pix_loss
    assert not load_pretrained(finished / "pretrained.pth", norm_pix_loss=False)[0].norm_pix_loss


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_says_what_to_expect(name: str) -> None:
    config = load_config(PretrainingConfig, name)
    assert Schedule.build(config.schedule, 10_000, config.data.batch_size).total > 0
    assert config.optim.betas == [0.9, 0.95]
    text = (Path(__file__).parents[2] / "configs" / name).read_text(encoding="utf-8")
    assert text.count("\n#") >= 1, "a recipe opens with its expected time and result"


def test_the_papers_settings() -> None:
    slow, fast = (load_config(PretrainingConfig, name) for name in ("convmae_base_1600e", "fastconvmae_base_50e"))
    assert (slow.optim.lr, slow.optim.lr_batch, slow.schedule.epochs, slow.schedule.warmup) == (1.5e-4, 256, 1600, 40)
    assert (fast.optim.lr, fast.data.batch_size, fast.schedule.epochs, fast.schedule.warmup) == (6e-4, 512, 50, 10)
    for config in (slow, fast):
        assert (config.optim.weight_decay, config.data.crop_scale, config.model.mask_ratio) == (0.05, 0.2, 0.75)
        assert (config.model.size, config.model.img_size, config.norm_pix_loss) == ("base", 224, True)


MIXTURES = [name for name in RECIPES if "mor" in name or "mcmae" in name]


def test_the_recipes_of_several_targets() -> None:
    found = {name: load_config(PretrainingConfig, name) for name in MIXTURES}
    assert len(found) == 4
    for config in found.values():
        check_targets(config.targets)
    mixture = found["fastconvmae_base_mor_50e.yaml"].targets
    assert [(target.teacher, target.tokens, target.at) for target in mixture] == [
        (teacher, "removed", "decoder") for teacher in ("ema", "dino", "clip")
    ]
    mimic = found["mr_mcmae_base_400e.yaml"].targets
    assert [(target.teacher, target.tokens, target.at) for target in mimic] == [
        ("clip", "visible", "encoder"),
        ("pixels", "removed", "decoder"),
    ]


@pytest.fixture(scope="module", params=["fp32"])
def mixed(finished: Path, request: pytest.FixtureRequest) -> tuple[list[str], Path]:
    """The options of a short run with three teachers on the same pictures, and the uninterrupted run's folder.

    In fp32, or in what a test asks for.
    """
    teacher = "vit_tiny_patch16_224"
    path = finished.parent / "teacher.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model(teacher).state_dict(), path)
    targets = f"targets=[{{teacher: ema}}, {{teacher: {teacher}, tokens: visible, at: encoder}}, {{teacher: pixels}}]"
    options = ["model.img_size=64", "data.batch_size=4", "data.workers=0", "schedule.epochs=null", "schedule.steps=6"]
    options += ["schedule.warmup=1", f"data.root={finished.parent / 'pictures'}", "runtime.log_every=1", targets]
    options += ["runtime.device=cpu", f"teachers.weights.{teacher}={path}", "schedule.save_every=3"]
    options += ["schedule.keep_checkpoints=-1", "teachers.ema_start=0.5", f"runtime.precision={request.param}"]
    folder = finished.parent / f"mixed_{request.param}"
    argv = ["--config", "fastconvmae_tiny_96px.yaml", "--cfg-options", *options]
    assert pretrain.main([*argv, "--work-dir", str(folder)]) == 0
    return argv, folder


def test_every_branchs_loss_is_logged(mixed: tuple[list[str], Path]) -> None:
    rows = [json.loads(line) for line in (mixed[1] / "scalars.jsonl").read_text().splitlines()]
    names = ("ema_removed_decoder", "vit_tiny_patch16_224_visible_encoder", "pixels_removed_decoder")
    for row in rows:
        assert abs(row["loss"] - sum(row[name] for name in names)) < 1e-5
        assert 0 < row["ema_spread"] < 1.1


@pytest.mark.parametrize("mixed", ["fp32", "bf16"], indirect=True)
def test_a_resumed_run_goes_on_from_the_average(mixed: tuple[list[str], Path], tmp_path: Path) -> None:
    argv, folder = mixed
    (tmp_path / "step_3.pth").write_bytes((folder / "step_3.pth").read_bytes())
    assert pretrain.main([*argv, "--work-dir", str(tmp_path), "--resume"]) == 0
    states = [torch.load(path / "step_6.pth", weights_only=True)["state_dict"] for path in (folder, tmp_path)]
    average = [name for name in states[0] if name.startswith("mixture.teachers.ema.")]
    assert average
    assert not any("vit_tiny" in name and "teachers" in name for name in states[0])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    live = states[0]["mixture.model.norm.weight"]
    assert not torch.equal(states[0]["mixture.teachers.ema.encoder.norm.weight"], live)


def test_the_weights_of_a_mixture_are_a_fastconvmae(mixed: tuple[list[str], Path]) -> None:
    model, options = load_pretrained(mixed[1] / "pretrained.pth")
    assert options.method == "fastconvmae"
    assert not model.load_report.missing
    assert not model.load_report.unexpected


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("targets=[{teacher: ema, at: encoder}]", "visible ones alone"),
        ("targets=[{teacher: nobody}]", "There is no teacher 'nobody'"),
        ("targets=[{teachers: ema}]", "'teachers'"),
        ("targets=[{teacher: ema, loss: l1}]", "targets[0].loss is 'l1'"),
        ("teachers.weights.clip=x.pth", "a file for 'clip'"),
        ("teachers.weights.pixels=x.pth", "a file for 'pixels'"),
        ("targets=[{teacher: pixels, norm: layer}]", "norm: layer, which is for features"),
        ("targets=[{teacher: pixels, weight: .nan}]", "targets[0].weight is nan"),
        ("model.img_size=-16", "model.img_size is -16"),
        ("model.mask_ratio=0.99", "keeps"),
        ("model.branch_depth=9", "branch_depth is 9"),
    ],
)
def test_targets_that_can_not_be_end_with_a_message(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture, option: str, said: str
) -> None:
    root = f"data.root={finished.parent / 'pictures'}"
    argv = ["--config", "convmae_tiny_96px.yaml", "--work-dir", str(tmp_path / "run"), "--cfg-options", root, option]
    assert pretrain.main(argv) == 2
    assert said in capsys.readouterr().err


def test_a_timm_name_with_a_dot_is_one_name_in_the_options() -> None:
    name = "vit_tiny.augreg_in21k"
    config = load_config(PretrainingConfig, None, [f"teachers.weights.{name}=1.5", "teachers.weights.dino=b"])
    assert config.teachers.weights == {name: "1.5", "dino": "b"}
    with pytest.raises(UserError, match=r"teachers\.weights\.vit_tiny is \{'augreg_in21k': 'a'\}; expected a text"):
        load_config(PretrainingConfig, None, ["teachers.weights={vit_tiny: {augreg_in21k: a}}"])


def test_weights_are_loaded_with_the_runs_own_heads(finished: Path) -> None:
    """No weight tells the number of heads, and another one gives other pictures."""
    options = ["model.img_size=64", "data.batch_size=8", "data.workers=0", "schedule.epochs=null", "schedule.steps=1"]
    options += ["schedule.warmup=0", f"data.root={finished.parent / 'pictures'}", "model.decoder_heads=8"]
    options += ["runtime.device=cpu"]
    folder = finished.parent / "heads"
    argv = ["--config", "fastconvmae_tiny_96px.yaml", "--work-dir", str(folder), "--cfg-options", *options]
    assert pretrain.main(argv) == 0
    trained = FastConvMAE("tiny", 64, decoder_heads=8).eval()
    load_checkpoint(trained, folder / "pretrained.pth", strict=True)
    images, noise = torch.randn(1, 3, 64, 64), torch.rand(1, 16)
    found = load_pretrained(folder / "pretrained.pth")[0](images, 0.75, noise).pred
    assert torch.equal(found, trained(images, 0.75, noise).pred)


def test_options_that_a_file_holds_and_no_run_has_are_refused(finished: Path, tmp_path: Path) -> None:
    content = torch.load(finished / "pretrained.pth", weights_only=True)
    for config in (
        "model: {method: mae, width: 5}",
        "{model: {method: mae}, targets: [{whom: ema}]}",
        "model: {method: no}",
    ):
        torch.save(content | {"config": config}, tmp_path / "odd.pth")
        with pytest.raises(UserError, match="not of this version"):
            load_pretrained(tmp_path / "odd.pth")


def test_momentum_rises_by_half_a_cosine() -> None:
    options = TeacherOptions()
    found = [momentum(options, part) for part in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(found, [0.996, (0.996 + 0.9999) / 2, 0.9999])


def test_the_baseline_trains_by_the_same_runner(finished: Path) -> None:
    folder = finished.parent / "mae"
    options = ["model.img_size=64", "data.batch_size=8", "data.workers=0", "schedule.epochs=null", "schedule.steps=2"]
    options += ["schedule.warmup=0", f"data.root={finished.parent / 'pictures'}", "runtime.device=cpu"]
    assert pretrain.main(["--config", "mae_tiny_96px.yaml", "--work-dir", str(folder), "--cfg-options", *options]) == 0
    model, known = load_pretrained(folder / "pretrained.pth")
    assert isinstance(model, MAE)
    assert known.method == "mae"
    report = load_checkpoint(ViT("tiny", img_size=64), folder / "encoder.pth")
    assert all(name.startswith(("fc_norm", "head")) for name in report.missing)


def test_a_broken_picture_is_skipped_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(9):
        Image.effect_noise((40, 40), 50 + number).save(tmp_path / "pictures" / f"{number}.jpg")
    broken = tmp_path / "pictures" / "0.jpg"  # the report draws the first, too
    broken.write_bytes(broken.read_bytes()[:300])
    options = ["data.root=pictures", "data.batch_size=4", "data.workers=1", "model.img_size=32"]
    options += ["schedule.epochs=null", "schedule.steps=3", "schedule.warmup=1", "runtime.device=cpu"]
    argv = ["--config", "convmae_tiny_96px.yaml", "--work-dir", "run", "--cfg-options", *options]
    assert pretrain.main(argv) == 2  # one of nine is more than one of a thousand
    assert (
        "1 of 9 training pictures can't be read, more than the share of data.bad_share=0.001" in capsys.readouterr().err
    )
    assert pretrain.main([*argv, "data.bad_share=0.2", "--overwrite"]) == 0
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())["unreadable"]
    assert (told["count"], list(told["pictures"])) == (1, ["pictures/0.jpg"])
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "pictures/0.jpg can&#39;t be read as a picture" in page
