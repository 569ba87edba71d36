"""What a pretraining run leaves to look at: the loss over the run, reconstructions and features of pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from convmae.engine.config import to_yaml
from convmae.engine.errors import UserError
from convmae.engine.faults import Remark
from convmae.engine.files import save_atomically
from convmae.engine.log import duration
from convmae.engine.text import decimals
from convmae.engine.training.scalars import read_scalars
from convmae.pretraining.autoencoder import MaskedAutoencoder
from convmae.pretraining.config import EMA, KNN, LINEAR, RANK, PretrainingConfig
from convmae.pretraining.evaluation.features import feature_maps, feature_panels
from convmae.pretraining.evaluation.reconstructions import (
    group_panels,
    load_picture,
    reconstruct,
    reconstruction_panels,
)
from convmae.reports.drawing import column, row
from convmae.reports.page import Number, Page, Panel, Picture, curves, environment
from convmae.reports.run_page import add_feeding, add_remarks, add_unread

SHOWN = 8


def write_report(
    model: MaskedAutoencoder,
    config: PretrainingConfig,
    paths: Sequence[Path],
    device: torch.device,
    work_dir: Path,
    remarks: Sequence[Remark] = (),
    unread: Mapping[str, str] | None = None,
) -> tuple[Page, list[Path]]:
    """Writes ``report/index.html``, ``metrics.json`` and, of a model that predicts pixels, ``reconstructions.png``.

    Returns the page and the files' paths.
    """
    scalars = read_scalars(work_dir)
    rows = [row for row in scalars if "loss" in row]
    if not rows:
        raise UserError(
            f"No step of this run had a finite loss ({work_dir / 'log.txt'}); its weights are those it began with."
        )
    # Of all starts of the run, as a clock would not tell.
    before = [0, *(row["step"] for row in rows)]
    seconds = sum(row["seconds_per_step"] * (row["step"] - step) for step, row in zip(before, rows, strict=False))
    metrics: dict[str, Any] = {
        "first_loss": rows[0]["loss"],
        "last_loss": rows[-1]["loss"],
        "seconds": seconds,
        "pictures": len(paths),
    }
    page = Page(f"{type(model).__name__} pretraining", f"{len(paths):,} pictures below {config.data.root}")
    page.headline(
        [
            Number("Loss", decimals(metrics["last_loss"], 4), f"at the start {decimals(metrics['first_loss'], 4)}"),
            Number("Steps", f"{int(rows[-1]['step']):,}", f"{config.data.batch_size} pictures each"),
            Number("Time", duration(seconds), f"{rows[-1]['seconds_per_step']:.3f} s a step at the end"),
        ]
    )
    parts = {target.name: target.name for target in config.targets} if len(config.targets) > 1 else {}
    page.figure(
        "Loss",
        curves(rows, {"loss": "loss", **parts}, "loss"),
        "The weighted sum, and each target's own." if parts else config.targets[0].describe(),
    )
    if f"{EMA}_spread" in rows[-1]:
        page.figure(
            "Spread of the EMA encoder's values",
            curves(rows, {"spread": f"{EMA}_spread"}, "deviation over tokens"),
            "At 0 all tokens are the same: it has collapsed.",
        )
    metrics |= _add_probe(page, [row for row in scalars if KNN in row])
    page.figure("Learning rate", curves(rows, {"learning rate": "lr"}, "learning rate"))
    add_feeding(page, rows)
    written = _add_pictures(page, model.eval().to(device), config, paths, work_dir)
    add_remarks(page, {"pretraining": remarks})
    metrics |= add_unread(page, unread or {})
    page.facts("Environment", environment())
    page.code("Configuration", to_yaml(config))
    return page, [*page.save(metrics, work_dir), *written]


def _add_probe(page: Page, looks: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Adds what the looks at the encoder found; returns what ``metrics.json`` holds of them."""
    if not looks:
        return {}
    best = max(looks, key=lambda row: row[KNN])
    kinds = {"k-NN": KNN, "linear probe": LINEAR} if LINEAR in looks[-1] else {"k-NN": KNN}
    page.figure(
        "Accuracy of the encoder's features",
        curves(looks, kinds, "top-1"),
        f"Of probe.root. The best by k-NN, {best[KNN]:.2%} after step {int(best['step'])}, is best_encoder.pth.",
    )
    page.figure(
        "Rank of the encoder's features",
        curves(looks, {"RankMe": RANK}, "RankMe"),
        "How many directions the features take up, by the entropy of their singular values; 1: they are all alike.",
    )
    return {"best_knn_top1": best[KNN], "best_step": int(best["step"])} | {
        name: looks[-1][name] for name in (KNN, LINEAR, RANK) if name in looks[-1]
    }


def _add_pictures(
    page: Page, model: MaskedAutoencoder, config: PretrainingConfig, paths: Sequence[Path], work_dir: Path
) -> list[Path]:
    """Adds reconstructions, where the model predicts pixels, and one picture's features; returns the file written."""
    loaded = _load_spread(paths, config)
    chosen, images = list(loaded), list(loaded.values())
    written = []
    if hasattr(model, "decoder_pred"):
        views = [reconstruct(model, image, config.model.mask_ratio, config.runtime.seed) for image in images]
        shown = [reconstruction_panels(of_one) for of_one in views]
        page.pictures(
            "Reconstructions",
            [Picture(_titled(*of_one), path.name) for of_one, path in zip(shown, chosen, strict=True)],
            f"Pictures of the training folder under a fixed mask. {_explained(shown[0][1])}",
            columns=1,
        )
        if len(views[0].mask) > 1:
            pairs = group_panels(views[0])
            page.pictures(
                "Groups",
                [
                    Picture(_titled(*pair), f"group {number}" if number else chosen[0].name)
                    for number, pair in enumerate(pairs)
                ],
                f"Complementary masks of one picture: each patch is visible to one group. {_explained(pairs[0][1])}",
                columns=2,
            )
        written.append(work_dir / "reconstructions.png")
        sheet = column([row(*of_one) for of_one in shown])
        save_atomically(lambda file: sheet.save(file, "PNG"), written[0])
    panels, captions = feature_panels(images[0], feature_maps(model, images[0]))
    page.pictures(
        "Features",
        [Picture(_titled(panels, captions), chosen[0].name)],
        "The encoder's outputs for the unmasked picture: three principal components as red, green and blue. "
        f"{_explained(captions)}",
        columns=1,
    )
    return written


def _titled(panels: Sequence[Image.Image], captions: Sequence[str]) -> list[Panel]:
    """Panels under the beginnings of their captions, which have room there on narrow windows."""
    return [Panel(image, re.split("[:;,]", said)[0]) for image, said in zip(panels, captions, strict=True)]


def _explained(captions: Sequence[str]) -> str:
    """What `_titled` leaves out of the captions, as sentences."""
    return " ".join(f"{said[0].upper()}{said[1:]}." for said in captions if re.search("[:;,]", said))


def _load_spread(paths: Sequence[Path], config: PretrainingConfig) -> dict[Path, Tensor]:
    """Returns ``SHOWN`` pictures spread evenly, or all if there are no more; in place of one that can't be read, the next."""
    reading = config.data.reading(config.model.in_chans)
    loaded: dict[Path, Tensor] = {}
    for start in sorted({place * len(paths) // SHOWN for place in range(SHOWN)}):
        for path in paths[start:]:
            try:
                loaded[path] = load_picture(path, config.model.img_size, reading=reading)
                break
            except UserError:  # the run named it where it came to it, and has learnt from others
                continue
    return loaded
