"""The encoder watched as it is pretrained: what is found, what is kept, and that the training goes as without."""

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from convmae.backbones import load_encoder
from convmae.classification import train as classification
from convmae.classification.config import ProbeConfig
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.files import read_meta, save_weights
from convmae.engine.machine.processes import from_all
from convmae.engine.pictures.images import normalize
from convmae.engine.seeding import INIT, seed_all
from convmae.engine.shards import cache
from convmae.engine.training.scalars import read_scalars
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.evaluation import probing
from convmae.pretraining.evaluation.probing import Probe
from convmae.pretraining.train import train
from convmae.tools import pack


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures of stripes along and across, three to five of each class."""
    draw = np.random.default_rng(0)
    for split, counts in (("train", (5, 4)), ("val", (3, 3))):
        for label, count in enumerate(counts):
            folder = tmp_path / "data" / split / ("along", "across")[label]
            folder.mkdir(parents=True)
            for number in range(count):
                lines = np.repeat(draw.integers(0, 256, (40, 1, 3), dtype=np.uint8), 44, 1)
                Image.fromarray(lines if label else lines.transpose(1, 0, 2)).save(folder / f"{number}.png")
    return tmp_path / "data"


def config_of(data: Path, *more: str) -> Any:
    options = [
        f"data.root={data / 'train'}", "model.img_size=32", "data.batch_size=4", "data.workers=0", "schedule.epochs=null",
        "schedule.steps=4", "schedule.warmup=1", "runtime.log_every=1", "runtime.device=cpu", "runtime.precision=fp32",
        "targets=[{teacher: ema}, {teacher: pixels}]", "optim.average=0.5",
    ]  # fmt: skip
    return load_config(PretrainingConfig, "fastconvmae_tiny_96px.yaml", [*options, *more])


def watched(data: Path, *more: str) -> Any:
    return config_of(data, "probe.every=2", f"probe.root={data}", "probe.neighbours=3", *more)


def trained(work_dir: Path) -> list[Any]:
    found = torch.load(work_dir / "step_4.pth", weights_only=True)
    return [found["state_dict"], found["average"], found["optimizer"]["state"]]


def run(config: Any, work_dir: Path, resume: bool = False) -> Path:
    work_dir.mkdir(exist_ok=True)
    seed_all(0, INIT)
    train(config, work_dir, resume)
    return work_dir


def looks(work_dir: Path) -> dict[int, dict[str, float]]:
    return {int(row["step"]): row for row in read_scalars(work_dir) if "knn_top1" in row}


def test_training_goes_as_without_and_the_numbers_are_those_of_the_probes(data: Path, tmp_path: Path) -> None:
    plain = run(config_of(data), tmp_path / "plain")
    seen = run(watched(data, "probe.linear=true"), tmp_path / "seen")
    torch.testing.assert_close(trained(seen), trained(plain), rtol=0, atol=0)
    losses = [[row["loss"] for row in read_scalars(folder)] for folder in (plain, seen)]
    assert losses[0] == losses[1]
    assert not (plain / "best_encoder.pth").exists()

    found = looks(seen)
    assert list(found) == [2, 4]
    assert all(1 <= row["rankme"] <= 9 and 0 <= row["linear_top1"] <= 1 for row in found.values())
    options = [
        f"data.root={data}", f"model.init={seen / 'encoder.pth'}", f"model.features={tmp_path / 'features'}", "knn.ks=[3]",
        "model.img_size=32", "data.test_crop=1.0", "data.workers=0", "runtime.device=cpu", "runtime.precision=fp32",
    ]  # fmt: skip
    page = classification.knn(load_config(ProbeConfig, "probe_96px.yaml", options), tmp_path)
    assert page.numbers[0].value == f"{100 * found[4]['knn_top1']:.2f} %"

    best = max(found, key=lambda step: (found[step]["knn_top1"], -step))
    for name in ("best_encoder.pth", "best_encoder.safetensors"):
        assert read_meta(seen / name)["value"] == found[best]["knn_top1"]
        assert read_meta(seen / name)["step"] == best
        assert load_encoder(seen / name).load_report is not None
    html = (seen / "report" / "index.html").read_text()
    assert "RankMe" in html
    assert "linear probe" in html


def test_a_run_that_goes_on_keeps_the_best_so_far(data: Path, tmp_path: Path) -> None:
    seen = run(watched(data, "schedule.steps=2"), tmp_path / "seen")
    best = read_meta(seen / "best_encoder.pth")
    assert best["step"] == 2
    save_weights(
        torch.load(seen / "encoder.pth", weights_only=True)["state_dict"], seen / "best_encoder.pth", "", {"value": 2.0}
    )
    run(watched(data), seen, resume=True)
    assert list(looks(seen)) == [2, 4]
    assert read_meta(seen / "best_encoder.pth")["value"] == 2.0


def test_processes_share_the_features_work(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder(torch.nn.Module):
        def forward(self, images: torch.Tensor, mode: str) -> torch.Tensor:
            assert mode == "tensor"
            return normalize(images).flatten(2).transpose(1, 2)

    class Runner:
        device, dtype, bare_model = torch.device("cpu"), None, Encoder()

    probe = Probe(watched(data, "probe.linear=true"))
    alone = probe._features(probe.train, Runner())  # type: ignore[arg-type]
    assert alone.labels.tolist() == [0] * 4 + [1] * 5
    parts: list[Any] = []
    for rank in (0, 1, 2, 3, 0):
        monkeypatch.setattr(probing, "get_dist_info", lambda rank=rank: (rank, 4))
        monkeypatch.setattr(
            probing, "from_all", lambda one: parts.append(one) or (parts[:4] if len(parts) > 4 else [one] * 4)
        )
        shared = probe._features(probe.train, Runner())  # type: ignore[arg-type]
    assert [len(part.labels) for part in parts] == [3] * 5
    for one, other in zip(shared, alone, strict=True):
        torch.testing.assert_close(one, other)
    assert from_all(1) == [1]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("", ["probe.root="], "probe.every is set and probe.root is empty"),
        ("val", [], "There is no folder .*val; expected one that holds a folder a class"),
        ("across", [], "holds one class folder, 'along'"),
        ("float", [], r"data\.range"),
        ("broken", [], r"9\.png can't be read as a picture"),
        ("", ["probe.neighbours=9"], r"probe\.neighbours is 9, and .*train has 9 pictures; expected more"),
        ("", ["probe.pictures=3"], r"has 3 pictures of which probe\.pictures=3 are used; expected more"),
        ("", ["probe.every=-1"], "probe.every is -1; expected at least 0"),
    ],
)
def test_sets_that_can_t_serve_are_refused_at_once(
    change: str, options: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    if change in ("val", "across"):
        (data / change if change == "val" else data / "train" / change).rename(tmp_path / "gone")
    elif change == "float":
        Image.fromarray(np.zeros((40, 40), np.float32)).save(data / "val" / "along" / "9.tiff")
    elif change == "broken":
        (data / "val" / "along" / "9.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=message) as error:
        Probe(watched(data, *options))
    assert "\n" not in str(error.value).strip()


def test_a_limit_takes_pictures_of_all_classes(data: Path) -> None:
    probe = Probe(watched(data, "probe.pictures=4"))
    assert [label for _, label in probe.train.pictures] == [0, 0, 1, 1]
    assert [label for _, label in probe.val.pictures] == [0, 0, 1, 1]


def test_shards_and_their_address_are_looked_at_as_the_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    dark = np.arange(1600, dtype=np.uint16).reshape(40, 40)  # in 16 bits, of which it uses a part
    Image.fromarray(dark).save(data / "val" / "along" / "9.png")
    assert pack.main([str(data), str(tmp_path / "shards"), "--processes", "1"]) == 0
    for path in (tmp_path / "shards").iterdir():
        fsspec.filesystem("memory").pipe_file(f"/probe/shards/{path.name}", path.read_bytes())
    found = []
    for number, root in enumerate((data, tmp_path / "shards", "memory://probe/shards")):
        caplog.clear()
        config = config_of(data, "probe.every=4", f"probe.root={root}", "probe.neighbours=3")
        found.append(looks(run(config, tmp_path / f"seen{number}")))
        assert "probe's val data: 1 splits that use less than a tenth of their range" in caplog.text
    measures = [{name: one[4][name] for name in ("knn_top1", "rankme")} for one in found]
    assert measures[0] == measures[1] == measures[2]
