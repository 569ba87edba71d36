"""What a pretraining run leaves to look at: the loss over the run and reconstructions of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

from convmae.engine.config import to_yaml
from convmae.engine.drawing import column
from convmae.engine.images import normalize, read_image, to_tensor
from convmae.engine.log import duration
from convmae.engine.report import Number, Page, Picture, curves, environment, read_scalars, write_metrics
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.convmae import ConvMAE
from convmae.pretraining.pictures import reconstruction_strip

SHOWN = 8


def write_report(
    model: ConvMAE,
    config: PretrainingConfig,
    paths: Sequence[Path],
    device: torch.device,
    work_dir: Path,
    seconds: float,
) -> tuple[Page, list[Path]]:
    """Writes ``report/index.html``, ``metrics.json`` and ``reconstructions.png``; returns the page and their paths."""
    rows = [row for row in read_scalars(work_dir) if "loss" in row]
    chosen = [paths[i * len(paths) // SHOWN] for i in range(min(SHOWN, len(paths)))] if len(paths) > SHOWN else paths
    strips = [
        reconstruct(
            model.to(device), load_square(path, config.model.img_size), config.model.mask_ratio, config.runtime.seed
        )
        for path in chosen
    ]
    metrics = {"first_loss": rows[0]["loss"], "last_loss": rows[-1]["loss"], "seconds": seconds, "pictures": len(paths)}
    page = Page(f"{type(model).__name__} pretraining", f"{len(paths):,} pictures below {config.data.root}")
    page.headline(
        [
            Number("Loss", f"{metrics['last_loss']:.4f}", f"at the start {metrics['first_loss']:.4f}"),
            Number("Steps", f"{int(rows[-1]['step']):,}", f"{config.data.batch_size} pictures each"),
            Number("Time", duration(seconds), f"{rows[-1]['seconds_per_step']:.3f} s a step at the end"),
        ]
    )
    page.figure("Loss", curves(rows, {"loss": "loss"}, "mean squared error on removed patches"))
    page.figure("Learning rate", curves(rows, {"learning rate": "lr"}, "learning rate"))
    page.pictures(
        "Reconstructions",
        [Picture(strip, path.name) for strip, path in zip(strips, chosen, strict=True)],
        "Pictures of the training folder under a fixed mask.",
        columns=1,
    )
    page.facts("Environment", environment())
    page.code("Configuration", to_yaml(config))
    page.write(work_dir / "report" / "index.html")
    write_metrics(work_dir / "metrics.json", metrics)
    column(strips).save(work_dir / "reconstructions.png")
    return page, [work_dir / name for name in ("report/index.html", "metrics.json", "reconstructions.png")]


def load_square(path: Path, size: int) -> torch.Tensor:
    """Returns a picture's centre square as the model takes it, [3, size, size]."""
    crop = v2.Compose([v2.Resize(size, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)])
    return normalize(to_tensor(crop(read_image(path)))[None])[0]


@torch.inference_mode()
def reconstruct(model: ConvMAE, image: torch.Tensor, mask_ratio: float, seed: int = 0) -> Image.Image:
    """Returns input, masked input and reconstruction of a normalised picture [3, H, W], side by side, under a seeded mask."""
    was_training = model.training
    model.eval()
    tokens = -(-image.shape[1] // 16) * -(-image.shape[2] // 16)
    noise = torch.rand(1, tokens, generator=torch.Generator().manual_seed(seed))
    device = next(model.parameters()).device
    out = model(image[None].to(device), mask_ratio, noise.to(device), predict="all")
    model.train(was_training)
    return reconstruction_strip(image, out.mask[0].cpu(), out.pred[0].float().cpu(), model.norm_pix_loss)
