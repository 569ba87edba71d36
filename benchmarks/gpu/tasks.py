"""Every task by the runner on pictures: a few steps here against the same on the CPU, and what a run needs besides steps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from torch import nn

from convmae.benchmarks.gpu.agreement.deviation import exact_fp32, relative
from convmae.benchmarks.gpu.battery import Case, Row, Setting
from convmae.benchmarks.gpu.pictures import few
from convmae.classification.config import FinetuningConfig
from convmae.classification.train import finetune
from convmae.detection import predict as detection_predict
from convmae.detection import train as detection
from convmae.detection.config import DetectionConfig
from convmae.engine.config import load_config
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import read_image
from convmae.engine.seeding import INIT, seed_all
from convmae.engine.training.scalars import read_scalars
from convmae.engine.training.train import train as run_training
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.data.dataset import PictureFolder
from convmae.pretraining.train import PretrainingModel, build_mixture
from convmae.pretraining.train import train as pretrain
from convmae.segmentation import predict as segmentation_predict
from convmae.segmentation import train as segmentation
from convmae.segmentation.config import SegmentationConfig

SHORT = [
    *("data.batch_size=4", "data.workers=0", "schedule.epochs=null", "schedule.steps=2", "schedule.warmup=0"),
    *("schedule.eval_every=0", "schedule.save_every=2", "schedule.keep_checkpoints=-1", "runtime.log_every=1"),
]
LOSS = {"fp32": 1e-3, "bf16": 2e-2}  # relative, of the first step
DETECTION = 0.1  # the same, where proposals to learn from are drawn, on a GPU with its own generator
LATER = 1e-3  # relative, of a resumed run's weights: on a GPU sums of many terms have no fixed order


class Task(NamedTuple):
    """A recipe, its schema and what trains it."""

    schema: type
    recipe: str
    train: Callable[[Any, Path, bool], Any]
    options: list[str]

    def config(self, device: str, precision: str, *more: str) -> Any:
        """Returns the tree of a few steps."""
        where = [f"runtime.device={device}", f"runtime.precision={precision}"]
        return load_config(self.schema, self.recipe, [*SHORT, *self.options, *where, *more])

    def run(self, config: Any, folder: Path, resume: bool = False) -> list[dict[str, float]]:
        """Trains, evaluates, writes the report, and returns the scalars of each step."""
        folder.mkdir(parents=True, exist_ok=True)
        seed_all(config.runtime.seed, INIT)
        with exact_fp32():
            self.train(config, folder, resume)
        return read_scalars(folder)


def cases(setting: Setting) -> list[Case]:
    """Returns the cases of this item."""
    tasks, real = all_tasks(setting)
    found = [Case(name, 7, partial(_train, setting, name, task, real)) for name, task in tasks.items()]
    return [
        *found,
        Case("a step that is not finite", 3, partial(_not_finite, setting, tasks["pretraining"])),
        Case("a resumed run", 5, partial(_resumed, setting, tasks["pretraining"])),
        Case("prediction", 5, partial(_predict, setting, tasks)),
    ]


def all_tasks(setting: Setting) -> tuple[dict[str, Task], str]:
    """Returns the tasks, tiny models on a few pictures, and where those are from."""
    found = few(setting)
    side, pixels, crop = (32, 64, 64) if setting.tiny else (96, 256, 160)
    images = [f"data.root={found.images}", f"model.img_size={side}"]
    classes = [f"data.root={found.classes}", f"model.img_size={side}"]
    coco = [f"data.root={found.coco}", f"data.img_size={pixels}", "model.score_threshold=0.001", "model.detections=20"]
    if setting.tiny:
        coco += ["model.fpn_channels=16", "model.box_convs=[]", "model.box_hidden=[16]", "model.mask_convs=[16]"]
    ade20k = [f"data.root={found.ade20k}", f"data.crop={crop}", "model.dropout=0", "model.decode_channels=16"]
    tasks = {
        "pretraining": Task(PretrainingConfig, "fastconvmae_tiny_96px.yaml", pretrain, images),
        "pretraining, EMA teacher": Task(PretrainingConfig, "fastconvmae_tiny_mor_96px.yaml", pretrain, images),
        "fine-tuning": Task(FinetuningConfig, "finetune_tiny_96px.yaml", finetune, classes),
        "detection": Task(DetectionConfig, "mask_rcnn_tiny_256px.yaml", detection.train, coco),
        "segmentation": Task(SegmentationConfig, "upernet_tiny_camvid.yaml", segmentation.train, ade20k),
    }
    return tasks, found.real


def _train(setting: Setting, name: str, task: Task, real: str, seconds: float) -> Iterator[Row]:
    """Yields a row for each precision: the first step's loss against the CPU's, and the time of all of it."""
    root = setting.scratch / "tasks" / name.replace(" ", "_")
    wanted = task.run(task.config("cpu", "fp32"), root / "cpu")
    for precision in ("fp32", "bf16") if setting.device.type == "cuda" else ("fp32",):
        started = time.perf_counter()
        found = task.run(task.config(setting.device.type, precision), root / precision)
        losses = [[_loss(row) for row in rows if "lr" in row] for rows in (wanted, found)]
        off = abs(losses[1][0] - losses[0][0]) / losses[0][0]
        allowed = max(LOSS[precision], DETECTION * (name == "detection"))
        yield {
            "precision": precision,
            "pictures": real,
            "CPU's loss": losses[0][0],
            "loss": losses[1][0],
            "second step": losses[1][1],
            "found": off,
            "allowed": allowed,
            "met": off <= allowed,
            "seconds": time.perf_counter() - started,
        }


def _loss(row: dict[str, float]) -> float:
    """The loss of a row of scalars: the sum, where that is not among its parts."""
    return row["loss"] if "loss" in row else sum(value for name, value in row.items() if "loss" in name)


class _Poison(Hook):
    """Makes the second step's gradient NaN and looks whether the weights stay."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.changed = model, [False] * 3

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.before = [weight.detach().clone() for weight in self.model.parameters()]
        if batch_idx == 1:
            layer: Any = self.model.decoder_embed
            self.hook = layer.register_forward_hook(lambda layer, inputs, output: output * torch.nan)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        after = self.model.parameters()
        self.changed[batch_idx] = not all(torch.equal(x, y) for x, y in zip(self.before, after, strict=True))
        if batch_idx == 1:
            self.hook.remove()


def _not_finite(setting: Setting, task: Task, seconds: float) -> Iterator[Row]:
    """Yields whether a step with a NaN in it is skipped, and only that one."""
    config = task.config(setting.device.type, "fp32", "schedule.steps=3")
    mixture = build_mixture(config)
    poison = _Poison(mixture.model)
    run_training(
        PretrainingModel(mixture, config.model.mask_ratio),
        PictureFolder(config.data, config.model.img_size),
        config=config,
        work_dir=setting.scratch / "tasks" / "not_finite",
        hooks=[poison],
    )
    yield {"weights changed in steps 1, 2, 3": poison.changed, "met": poison.changed == [True, False, True]}


def _resumed(setting: Setting, task: Task, seconds: float) -> Iterator[Row]:
    """Yields how far a run that was continued after half its steps is from one that was not interrupted."""
    root, config = setting.scratch / "tasks" / "resumed", task.config(setting.device.type, "fp32", "schedule.steps=4")
    whole = task.run(config, root / "whole")
    (root / "parts").mkdir(exist_ok=True)
    for name in ("step_2.pth", "config.yaml"):
        shutil.copy(root / "whole" / name, root / "parts" / name)
    parts = task.run(config, root / "parts", resume=True)
    weights = [torch.load(root / part / "pretrained.pth", weights_only=True)["model"] for part in ("whole", "parts")]
    # All together: of some, such as a key's bias, the gradient is rounding alone, which AdamW makes steps of.
    joined = [torch.cat([x.double().flatten() for x in found.values() if x.is_floating_point()]) for found in weights]
    off = relative(joined[1], joined[0])
    allowed = LATER if setting.device.type == "cuda" else 0.0
    losses = [rows[-1]["loss"] for rows in (whole, parts)]
    yield {"last losses": losses, "equal": off == 0, "found": off, "allowed": allowed, "met": off <= allowed}


@torch.inference_mode()
def _predict(setting: Setting, tasks: Mapping[str, Task], seconds: float) -> Iterator[Row]:
    """Yields how far predictions on one picture are from the CPU's, with the weights that were trained before."""
    root, found = setting.scratch / "tasks", few(setting)
    for name, module, folder in (
        ("detection", detection_predict, found.coco),
        ("segmentation", segmentation_predict, found.ade20k),
    ):
        weights = root / name / "cpu" / "model.pth"
        picture = read_image(list_images(folder)[0])
        made = []
        for device in ("cpu", setting.device.type):
            with exact_fp32():
                made.append(module.Predictor(tasks[name].config(device, "fp32"), weights)([picture])[0])
        if name == "segmentation":
            off = float((made[0] != made[1]).mean())
        else:
            scores = [one["scores"].sort().values for one in made]
            off = float((scores[0] - scores[1]).abs().max()) if len(scores[0]) == len(scores[1]) else 1.0
        yield {"task": name, "found": off, "allowed": 1e-2, "met": off <= 1e-2}
