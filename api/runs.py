"""Runs started from Python, which do what the tools of their names do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from convmae.engine.commands.cli import start_run
from convmae.engine.commands.weights_size import by_weights
from convmae.engine.commands.work_dirs import kept_recipe
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.options import as_overrides, in_python

if TYPE_CHECKING:
    from convmae.backbones.encoder import Classifier as Encoder
    from convmae.models import Classifier, Detector, Segmenter

PathLike: TypeAlias = str | os.PathLike[str]
_ENCODER, _MODEL = "encoder.pth", "model.pth"


@dataclass(frozen=True)
class Run:
    """A finished run. ``work_dir`` holds its weights, ``metrics.json``, ``report/index.html``, its recipe, log and curves."""

    work_dir: Path

    @property
    def weights(self) -> Path:
        """The file that other runs and ``load`` take: ``model.pth``, of pretraining ``encoder.pth``."""
        trained = self.work_dir / _MODEL
        return trained if trained.is_file() else self.work_dir / _ENCODER

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds: of an evaluated run its numbers by name."""
        content: dict[str, Any] = json.loads((self.work_dir / "metrics.json").read_text(encoding="utf-8"))
        return content

    @cached_property
    def model(self) -> Detector | Segmenter | Classifier | Encoder:
        """The trained model, ready to predict, or the pretrained encoder; loaded when it is first asked for."""
        if self.weights.name == _MODEL:
            from convmae.models import load

            return load(self.weights)
        from convmae.backbones.families import load_encoder

        return load_encoder(self.weights)


def pretrain(
    config: PathLike | None = None,
    *,
    work_dir: PathLike | None = None,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    auto: bool = False,
    **overrides: Any,
) -> Run:
    """Pretrains an encoder on plain pictures, as ``tools/pretrain.py`` does.

    Args:
        config: a recipe: a file, or the name of a shipped one; None for the tool's own, or with ``resume`` the run's.
        work_dir: where the run is written; None for ``work_dirs/<recipe>``.
        resume: continue from the newest checkpoint there; ``"auto"``: start where nothing is, and continue what the same
            call began.
        overwrite: remove an earlier run from there first.
        auto: choose batch, rate, epochs and the smallest crop by the number and size of the pictures; what is set stays.
        overrides: options of the recipe with ``__`` for the dot, such as ``data__root="data/images"``.

    Raises:
        UserError: what the tool would end with as its message.
    """
    from convmae.pretraining.auto import fitted
    from convmae.pretraining.config import PretrainingConfig
    from convmae.pretraining.train import train

    fit = fitted if auto else None
    return _run(
        PretrainingConfig, train, "fastconvmae_base_50e.yaml", config, work_dir, resume, overwrite, overrides, fit
    )


def finetune(
    config: PathLike | None = None,
    *,
    work_dir: PathLike | None = None,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    **overrides: Any,
) -> Run:
    """Fine-tunes a classifier on class folders, as ``tools/finetune.py`` does; arguments as of ``pretrain``, but ``auto``."""
    from convmae.classification.config import FinetuningConfig
    from convmae.classification.train import finetune as train

    return _run(
        FinetuningConfig, train, "finetune_convmae_base_100e.yaml", config, work_dir, resume, overwrite, overrides
    )


def train_det(
    config: PathLike | None = None,
    *,
    work_dir: PathLike | None = None,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    **overrides: Any,
) -> Run:
    """Trains Mask R-CNN on COCO-format data, as ``tools/train_det.py`` does; arguments as of ``pretrain``."""
    from convmae.detection.config import DetectionConfig
    from convmae.detection.train import train

    return _run(DetectionConfig, train, "mask_rcnn_convmae_25e.yaml", config, work_dir, resume, overwrite, overrides)


def train_seg(
    config: PathLike | None = None,
    *,
    work_dir: PathLike | None = None,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    **overrides: Any,
) -> Run:
    """Trains UPerNet on ADE20K-layout data, as ``tools/train_seg.py`` does; arguments as of ``pretrain``."""
    from convmae.segmentation.config import SegmentationConfig
    from convmae.segmentation.train import train

    return _run(
        SegmentationConfig, train, "upernet_convmae_160k_ade20k.yaml", config, work_dir, resume, overwrite, overrides
    )


def _run(
    schema: type,
    train: Callable[[Any, Path, bool], Any],
    default: str,
    config: PathLike | None,
    work_dir: PathLike | None,
    resume: bool | Literal["auto"],
    overwrite: bool,
    overrides: dict[str, Any],
    fit: Callable[[Any, Sequence[str]], tuple[Any, list[str]]] | None = None,
) -> Run:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "A run from Python is one process; for several start the tool by torchrun, with --launcher pytorch."
        )
    if resume not in (False, True, "auto"):
        raise UserError(f"resume is {resume!r}; expected True, False or 'auto'.")
    recipe, given = os.fspath(default if config is None else config), as_overrides(overrides)

    def load(recipe: str, more: Sequence[str] = ()) -> Any:
        return load_config(schema, recipe, [*given, *more])

    def folder() -> Path:
        return Path("work_dirs") / Path(recipe).stem if work_dir is None else Path(work_dir)

    with in_python():
        kept = kept_recipe(folder()) if resume is True and config is None else None
        tree, notes = load(os.fspath(kept or recipe)), list[str]()
        if tree.model.init and not kept:
            tree, recipe, notes = by_weights(tree, recipe, default if config is None else "", given, load)
        if fit and not kept:
            tree, chosen = fit(tree, given)
            notes += chosen
        start_run(tree, folder(), train, resume, overwrite, notes)
    return Run(folder())
