"""ConvViTDet for mmdetection, which has to be installed, by ``custom_imports`` of this module; see docs/mmdetection.md.

In Python import this before mmdet.
"""

from __future__ import annotations

import convmae.detection.mmdet_operators  # noqa: F401  (mmdet looks for operators as it is imported)

# isort: split

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from mmdet.datasets import CocoDataset
from mmdet.models import DetDataPreprocessor
from mmdet.registry import HOOKS, MODELS
from mmengine.fileio import get_local_path
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from convmae import backbones
from convmae.detection.data.annotation_file import read_json
from convmae.detection.data.transforms import GREY
from convmae.engine.errors import UserError
from convmae.engine.training.optim import ConvMAEOptimWrapperConstructor
from convmae.engine.whole_weights import start_backbone

__all__ = ["ClassCheckHook", "ConvMAEOptimWrapperConstructor", "ConvViTDet", "GreyPaddedPreprocessor"]


@MODELS.register_module()
class ConvViTDet(backbones.ConvViTDet):
    """The encoder for detection as an mmdet backbone.

    It takes the arguments of `convmae.backbones.ConvViTDet`; `out_indices`, which of E1..E4 it returns, from 0; `init`:
    pretrained weights of any known layout, fitted to its grid and windows; and `freeze`: what of it stays as these have it,
    "none", "stem" or "encoder". What became of each of their names is logged.
    Raises UserError for a file that leaves some of the encoder unfilled, and for freezing without weights.
    """

    def __init__(
        self,
        *args: Any,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        init: str = "",
        freeze: str = "none",
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.out_indices = tuple(out_indices)
        start_backbone(self, init, freeze)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # some of the maps
        """Returns maps of normalised images [B, 3, H, W], each [B, C, H / s, W / s] at strides s = 4, 8, 16, 32."""
        maps = super().forward(images)
        return tuple(maps[index] for index in self.out_indices)


@MODELS.register_module()
class GreyPaddedPreprocessor(DetDataPreprocessor):
    """DetDataPreprocessor that pads with grey before it normalises, as the published detector's pictures are; it pads after.

    side: of the square that pictures are padded to, in pixels.
    """

    def __init__(self, *, side: int, **options: Any) -> None:
        super().__init__(**options)
        self.side = side

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Returns the normalised images [B, 3, side, side]. Raises UserError for a picture that is larger."""
        padded = []
        for image in data["inputs"]:
            height, width = image.shape[-2:]
            if max(height, width) > self.side:
                raise UserError(
                    f"Found a picture of {width}x{height} pixels; expected at most {self.side} a side: Resize and RandomCrop "
                    "in the pipelines must fit pictures into model.data_preprocessor.side."
                )
            padded.append(F.pad(image, (0, self.side - width, 0, self.side - height), value=GREY))
        found: dict[str, Any] = super().forward({**data, "inputs": padded}, training)
        return found


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Compares the classes of heads with those of the data, and the weights to be tested with the model.

    mmengine loads what fits of a checkpoint and warns of the rest, which would then be tested as it was drawn.
    """

    def __init__(self) -> None:
        self.unfilled: list[str] = []

    def before_train(self, runner: Runner) -> None:
        check_heads(runner.model, runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        check_heads(runner.model, runner.val_dataloader)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        given = checkpoint.get("state_dict", checkpoint)
        given = {name.removeprefix("module."): value for name, value in given.items()}
        own: Mapping[str, Any] = runner.model.state_dict()
        own = {name.removeprefix("module."): value for name, value in own.items()}
        self.unfilled = [
            f"{name}: {list(given[name].shape) if name in given else 'absent'}, not {list(value.shape)}"
            for name, value in own.items()
            if name not in given or given[name].shape != value.shape
        ]

    def before_test(self, runner: Runner) -> None:
        check_heads(runner.model, runner.test_dataloader)
        if self.unfilled:
            raise UserError(
                f"The checkpoint leaves {len(self.unfilled)} of the model's tensors unfilled ({self.unfilled[0]}); expected "
                "one of a model with these options and as many classes."
            )


def check_heads(model: Any, loader: DataLoader) -> None:
    """Raises UserError unless a detector's heads, its data and the class list agree in number, and the latter two in order."""
    data: Any = loader.dataset
    classes = data.metainfo.get("classes", ())
    listed = f"{len(classes)} ({', '.join(classes[:3])}, ...)"
    known = getattr(data, "cat_ids", classes)
    if len(known) != len(classes):
        raise UserError(
            f"{data.ann_file} has {len(known)} of the data set's classes, {listed}; expected all: give their names "
            "as metainfo.classes of each data set."
        )
    if isinstance(data, CocoDataset):
        _check_names(data, list(classes))
    for name, module in model.named_modules():
        count = getattr(module, "num_classes", len(classes))
        if count != len(classes) and not name.endswith("rpn_head"):  # which knows objects alone
            raise UserError(
                f"{name}.num_classes is {count}, the classes of the data are {listed}; expected the same: set num_classes of "
                "all heads, and metainfo.classes of each data set."
            )


def _check_names(data: CocoDataset, classes: list[str]) -> None:
    """Raises UserError for names in another order than the file's, by which mmdet numbers classes whatever it is given."""
    with get_local_path(data.ann_file, backend_args=data.backend_args) as path:  # mmdet keeps ids alone of it
        names = {entry["id"]: entry["name"] for entry in read_json(Path(path), ["categories"])["categories"]}
    listed = [names[number] for number in data.cat_ids]
    if listed != classes:
        first = next(index for index, pair in enumerate(zip(listed, classes, strict=True)) if pair[0] != pair[1])
        shown = slice(first, first + 3)
        raise UserError(
            f"{data.ann_file} lists its classes as {', '.join(listed[shown])} from number {first} on, metainfo.classes as "
            f"{', '.join(classes[shown])}; expected the file's order, by which mmdet numbers them: give metainfo.classes of "
            "each data set in that order, or sort the file's categories."
        )
