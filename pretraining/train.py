"""A pretraining run: from a folder of pictures to weights and reconstructions."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel

from convmae.backbones import load_checkpoint
from convmae.engine.config import to_yaml
from convmae.engine.errors import UserError
from convmae.engine.faults import log_remarks
from convmae.engine.files import save_weights
from convmae.engine.log import log, log_done
from convmae.engine.pictures.images import normalize
from convmae.engine.training.runner import Runner
from convmae.engine.training.train import train as run_training
from convmae.pretraining import METHODS, MaskedAutoencoder
from convmae.pretraining.config import EMA, KNN, PIXELS, PretrainingConfig, TeacherOptions
from convmae.pretraining.data.dataset import PictureFolder
from convmae.pretraining.evaluation.probing import BestEncoderHook, Probe, best_files
from convmae.pretraining.evaluation.report import write_report
from convmae.pretraining.patches import PATCH
from convmae.pretraining.reconstructors import MixtureOfReconstructors
from convmae.pretraining.targets import check_targets
from convmae.pretraining.teachers import build_teacher
from convmae.pretraining.weights import encoder_weights
from convmae.reports.page import Page


class PretrainingModel(BaseModel):
    """A mixture as the runner wants it: bytes and noise in, losses out; or the encoder's tokens of whole pictures."""

    def __init__(self, mixture: MixtureOfReconstructors, mask_ratio: float) -> None:
        super().__init__(BaseDataPreprocessor(non_blocking=True))  # the loader pins its batches
        self.mixture = mixture
        self.mask_ratio = mask_ratio

    def forward(
        self, images: torch.Tensor, noise: torch.Tensor | None = None, mode: str = "loss"
    ) -> dict[str, torch.Tensor] | torch.Tensor:
        """Returns ``{"loss": [], ...}`` for bytes [B, in_chans, S, S] and noise [B, L]; by mode "tensor" tokens [B, L, C]."""
        if mode == "tensor":
            return self.mixture.model.forward_features(normalize(images))
        if mode != "loss" or noise is None:
            raise ValueError(
                f"mode is {mode!r}; expected 'loss' with noise, or 'tensor': pretraining predicts by "
                "pretraining/evaluation/reconstructions.py"
            )
        return self.mixture(normalize(images), self.mask_ratio, noise)


class MomentumHook(Hook):
    """Moves the EMA teacher after each step, by a momentum that rises over the run: half a cosine from start to end."""

    def __init__(self, options: TeacherOptions) -> None:
        self.options = options

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        mixture = cast(PretrainingModel, runner.bare_model).mixture
        mixture.update_teachers(momentum(self.options, (batch_idx + 1) / runner.max_iters))


def momentum(options: TeacherOptions, part: float) -> float:
    """Returns the EMA teacher's momentum at a part of the run, 0 to 1."""
    return options.ema_end - (options.ema_end - options.ema_start) * 0.5 * (1 + math.cos(math.pi * part))


def build_model(config: PretrainingConfig) -> MaskedAutoencoder:
    """Returns the masked autoencoder of the tree, with the weights that it names."""
    options = config.model
    given = {name: getattr(options, name) for name in ("decoder_dim", "decoder_depth", "decoder_heads")}
    if options.method == "fastconvmae":
        given["groups"] = options.groups
    elif options.groups is not None:
        raise UserError(f"model.groups is for fastconvmae, not for {options.method}; expected null.")
    model = METHODS[options.method](
        options.size,
        options.img_size,
        config.norm_pix_loss,
        checkpoint_activations=config.runtime.checkpoint_activations,
        in_chans=options.in_chans,
        **given,
    )
    if options.init:
        log.info(str(load_checkpoint(model, options.init)))
    return model


def build_mixture(config: PretrainingConfig) -> MixtureOfReconstructors:
    """Returns the model of the tree with its targets and their teachers. Raises UserError for what can't be."""
    try:
        check_targets(config.targets)
        model = build_model(config)
        names = list(dict.fromkeys(target.teacher for target in config.targets))
        files = config.teachers.weights
        if unused := sorted(set(files) - set(names) | set(files) & {PIXELS, EMA}):
            raise UserError(
                f"teachers.weights has a file for {unused[0]!r}; expected one of the targets' teachers that take one: "
                f"{', '.join(sorted(set(names) - {PIXELS, EMA})) or 'none here does'}."
            )
        side = model.grid_size[0] * PATCH
        teachers = {name: build_teacher(name, model, files, (side, side)) for name in names}
        return MixtureOfReconstructors(model, config.targets, teachers, config.model.branch_depth)
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def train(config: PretrainingConfig, work_dir: Path, resume: bool) -> Page | None:
    """Pretrains as the tree says; writes weights, full and of the encoder alone, and a report, whose page it returns."""
    started = time.perf_counter()
    pictures = PictureFolder(config.data, config.model.img_size, config.model.in_chans)
    log.info(f"data: {len(pictures)} pictures below {config.data.root}")
    log_remarks("pretraining", pictures.remarks)
    probe = Probe(config) if config.probe.every else None
    mixture = build_mixture(config)
    model = mixture.model
    try:
        model.masks(torch.rand(1, pictures.tokens), config.model.mask_ratio)
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    for target in mixture.targets:
        log.info(f"target: {target.describe()}, weight {target.weight:g}")
    runner = run_training(
        PretrainingModel(mixture, config.model.mask_ratio),
        pictures,
        config=config,
        work_dir=work_dir,
        hooks=[MomentumHook(config.teachers), *([BestEncoderHook(KNN, to_yaml(config))] if probe else [])],
        compiled=mixture.static_methods(),
        resume=resume,
        fixed_shapes=True,
        look=probe.look if probe else None,
        look_every=config.probe.every,
    )
    if not is_main_process():
        return None
    files = [*export(model, work_dir, to_yaml(config)), *(path for path in best_files(work_dir) if probe)]
    unread = runner.unread_pictures()
    page, written = write_report(model, config, pictures.paths, runner.device, work_dir, pictures.remarks, unread)
    log_done({}, [*files, *written], time.perf_counter() - started)
    return page


def export(model: MaskedAutoencoder, work_dir: Path, config: str) -> list[Path]:
    """Writes ``pretrained`` (everything) and ``encoder`` (without decoder) as .pth and .safetensors; returns the paths."""
    full = model.state_dict()
    return [
        save_weights(state, work_dir / f"{name}{suffix}", config)
        for name, state in (("pretrained", full), ("encoder", encoder_weights(full)))
        for suffix in (".pth", ".safetensors")
    ]
