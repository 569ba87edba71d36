"""A pretraining run: from a folder of pictures to weights and reconstructions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.model import BaseModel

from convmae.backbones import load_checkpoint
from convmae.engine.config import to_yaml
from convmae.engine.errors import UserError
from convmae.engine.files import save_weights
from convmae.engine.images import normalize
from convmae.engine.log import log, log_done
from convmae.engine.report import Page
from convmae.engine.train import train as run_training
from convmae.pretraining.config import PretrainingConfig, PretrainingModelOptions
from convmae.pretraining.convmae import ConvMAE
from convmae.pretraining.data import PictureFolder
from convmae.pretraining.fastconvmae import FastConvMAE
from convmae.pretraining.report import write_report


class PretrainingModel(BaseModel):
    """A masked autoencoder as the runner wants it: bytes and noise in, loss out."""

    def __init__(self, model: ConvMAE, mask_ratio: float) -> None:
        super().__init__()
        self.model = model
        self.mask_ratio = mask_ratio

    def forward(self, images: torch.Tensor, noise: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
        """Returns ``{"loss": []}`` for bytes [B, 3, S, S] and noise [B, L]."""
        if mode != "loss":
            raise ValueError(
                f"mode is {mode!r}, expected 'loss': pretraining predicts through convmae.pretraining.report"
            )
        return {"loss": self.model(normalize(images), self.mask_ratio, noise, predict="removed").loss}


def build_model(options: PretrainingModelOptions, checkpoint_activations: bool = False) -> ConvMAE:
    """Returns the masked autoencoder of the tree, with the weights that it names."""
    decoder = {
        name: value
        for name in ("decoder_dim", "decoder_depth", "decoder_heads")
        if (value := getattr(options, name)) is not None
    }
    shared: dict[str, Any] = {
        "img_size": options.img_size,
        "norm_pix_loss": options.norm_pix_loss,
        "checkpoint_activations": checkpoint_activations,
        **decoder,
    }
    if options.method == "fastconvmae":
        model: ConvMAE = FastConvMAE(options.size, groups=options.groups, **shared)
    else:
        model = ConvMAE(options.size, **shared)
    if options.init:
        log.info(str(load_checkpoint(model, options.init)))
    return model


def train(config: PretrainingConfig, work_dir: Path, resume: bool) -> Page | None:
    """Pretrains as the tree says; writes weights, full and of the encoder alone, and a report, whose page it returns."""
    started = time.perf_counter()
    pictures = PictureFolder(config.data, config.model.img_size)
    log.info(f"data: {len(pictures)} pictures below {config.data.root}")
    try:
        model = build_model(config.model, config.runtime.checkpoint_activations)
        model.masks(torch.rand(1, pictures.tokens), config.model.mask_ratio)
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    runner = run_training(
        PretrainingModel(model, config.model.mask_ratio), pictures, config=config, work_dir=work_dir, resume=resume
    )
    if not is_main_process():
        return None
    files = export(model, work_dir, to_yaml(config))
    seconds = time.perf_counter() - started
    page, written = write_report(model, config, pictures.paths, runner.device, work_dir, seconds)
    log_done({}, [*files, *written], seconds)
    return page


def export(model: ConvMAE, work_dir: Path, config: str) -> list[Path]:
    """Writes ``pretrained`` (everything) and ``encoder`` (without decoder) as .pth and .safetensors; returns the paths."""
    full = model.state_dict()
    encoder = {name: value for name, value in full.items() if not name.startswith(("decoder_", "mask_token"))}
    return [
        save_weights(state, work_dir / f"{name}{suffix}", config)
        for name, state in (("pretrained", full), ("encoder", encoder))
        for suffix in (".pth", ".safetensors")
    ]
