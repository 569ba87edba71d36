"""Features of a frozen encoder, computed once and kept on disk for every probe."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from tqdm import tqdm

from convmae.backbones import Classifier, load_encoder
from convmae.backbones.weights.weight_files import split_choice
from convmae.classification.config import ProbeConfig
from convmae.classification.data.dataset import ClassFolder, EvalSet, RandomViews
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file, save_atomically
from convmae.engine.log import log
from convmae.engine.machine.loading import load
from convmae.engine.machine.precision import set_up
from convmae.engine.pictures.images import normalize
from convmae.engine.probes.features import Features, mean_tokens
from convmae.engine.seeding import SampleKey, SeededDataset


def probed_encoder(path: str, in_chans: int | None = None) -> Classifier:
    """Returns the encoder in a file, a ConvViT or a plain ViT, without a head. Raises UserError where no file is given."""
    if not path:
        raise UserError("model.init is empty; a probe needs pretrained weights: model.init=path/to/encoder.pth.")
    check_is_file(path)
    encoder = load_encoder(path, in_chans)
    log.info(str(encoder.load_report))
    return encoder


def read_features(config: ProbeConfig, split: ClassFolder, encoder: Classifier, view: int = 0) -> Features:
    """Returns the features of a split: from the folder of features if they are there, else computed and kept there.

    ``view`` 0 is each picture's centre crop, n its n-th random crop. The file's name follows from the weights, the pictures
    (paths, sizes, times) and what is done to them.
    """
    device, dtype = set_up(config.runtime)
    key = hashlib.blake2b(digest_size=12)
    crop = (view, config.runtime.seed, config.linear.crop_scale) if view else config.data.test_crop
    computed = (dtype, "tf32") if config.runtime.tf32 and device.type == "cuda" else dtype
    for part in (Features._fields, config.model.img_size, split.reading, crop, computed, *_stamps(split)):
        key.update(repr(part).encode())
    weights, chosen = split_choice(config.model.init)
    key.update(weights.read_bytes() + chosen.encode())
    path = Path(config.model.features) / f"{split.root.name}_{key.hexdigest()}.safetensors"
    if path.is_file():
        try:
            kept = Features(**safetensors.torch.load_file(path))
            log.info(f"features of {split.root}: {path}")
            return kept
        except (safetensors.SafetensorError, TypeError, OSError, RuntimeError) as error:  # the last two: just removed
            log.warning(f"{path} is damaged and made anew ({error})")
    features = extract(encoder.to(device), split, config, view, device, dtype)
    content = safetensors.torch.save(features._asdict())
    try:
        save_atomically(lambda file: file.write(content), path)
    except UserError as error:
        raise UserError(f"{error} The place of features is model.features.") from None
    return features


def extract(
    encoder: Classifier,
    split: ClassFolder,
    config: ProbeConfig,
    view: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Features:
    """Returns the mean over the last stage's tokens of one view of each picture, in fp32."""
    size = config.model.img_size
    pictures = (
        RandomViews(split, size, config.linear.crop_scale) if view else EvalSet(split, size, config.data.test_crop)
    )
    dataset = SeededDataset(pictures, config.runtime.seed)
    keys = [SampleKey(view, index) for index in range(len(dataset))]
    loader = load(dataset, config.data, device, batch_size=config.data.batch_size, sampler=keys)
    features = mean_tokens(
        lambda images: encoder.forward_features(normalize(images)),
        tqdm(loader, desc=f"features of {split.root}", leave=False, disable=None),
        device,
        dtype,
    )
    log.info(f"features of {split.root}: {len(dataset)} pictures at {config.model.img_size} px")
    return features


def _stamps(split: ClassFolder) -> list[tuple[str, int, int, int]]:
    stamps = []
    for path, label in split.pictures:
        status = path.stat()
        stamps.append((str(path.relative_to(split.root)), label, status.st_size, status.st_mtime_ns))
    return stamps
