"""The encoder watched as it is pretrained: k-NN, a linear probe and RankMe of its features on pictures in class folders."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_dist_info

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault, Tally, log_remarks, refuse_all
from convmae.engine.files import save_weights
from convmae.engine.log import log
from convmae.engine.machine.loading import load
from convmae.engine.machine.processes import from_all
from convmae.engine.options import LinearProbeOptions
from convmae.engine.pictures.images import look_at
from convmae.engine.pictures.value_ranges import check_ranges
from convmae.engine.probes.class_folders import check_same_folders, class_folders, find_labelled
from convmae.engine.probes.features import Features, mean_tokens
from convmae.engine.probes.knn import knn_scores
from convmae.engine.probes.linear import train_probes
from convmae.engine.probes.rank import rank_me
from convmae.engine.probes.splits import ClassFolder, EvalSet
from convmae.engine.shards.places import place
from convmae.engine.training.hooks import BestHook
from convmae.engine.training.runner import Runner
from convmae.pretraining.config import KNN, LINEAR, RANK, PretrainingConfig
from convmae.pretraining.weights import encoder_weights

BEST_ENCODER = "best_encoder.pth"


class Probe:
    """Looks at an encoder; made before the training, it refuses pictures that can't serve. Raises UserError for these."""

    def __init__(self, config: PretrainingConfig) -> None:
        self.config, options = config, config.probe
        if not options.root:
            raise UserError(
                "probe.every is set and probe.root is empty; expected a folder with train and val, each with a folder of "
                "pictures a class."
            )
        self.train, self.val = (self._read(place(place(options.root) / part)) for part in ("train", "val"))
        check_same_folders(self.train.root, self.train.folders, self.val.root, self.val.folders)
        if len(self.train.pictures) <= options.neighbours:
            raise UserError(
                f"probe.neighbours is {options.neighbours}, and {self.train.root} has {len(self.train.pictures)} pictures"
                + f" of which probe.pictures={options.pictures} are used" * bool(options.pictures)
                + "; expected more pictures than neighbours."
            )
        for split in (self.train, self.val):
            log.info(f"probe: {split.describe()}")

    def _read(self, folder: Path) -> ClassFolder:
        faults: list[Fault] = []
        folders = class_folders(folder)
        pictures = find_labelled(folder, folders, faults.append)
        most = self.config.probe.pictures or len(pictures)
        if most < len(pictures):  # they lie class by class
            pictures = [pictures[number * len(pictures) // most] for number in range(most)]
        reading = self.config.data.reading(self.config.model.in_chans)
        check_ranges([path for path, _ in pictures], reading, faults.append)
        refuse_all(faults)
        log_remarks(f"probe's {folder.name}", Tally(faults).remarks)
        for path, _ in pictures:  # not in the middle of the run
            look_at(path, reading)
        return ClassFolder(folder, folders, pictures, folders, reading)

    def look(self, runner: Runner) -> dict[str, float]:
        """Returns k-NN accuracy, RankMe of the training features and, on request, the best linear probe's accuracy.

        Each process computes the features of a part and all the rest itself, so that none waits for another.
        """
        options, device, classes = self.config.probe, runner.device, len(self.train.folders)
        train, val = (self._features(split, runner) for split in (self.train, self.val))
        votes = knn_scores(train, val, classes, [options.neighbours], options.temperature, device)[options.neighbours]
        found = {KNN: _accuracy(votes, val), RANK: rank_me(train.values)}
        if options.linear:
            probes = train_probes([train], val.values, classes, LinearProbeOptions(), self.config.runtime.seed, device)
            found[LINEAR] = max(_accuracy(probe.probabilities, val) for probe in probes)
        return found

    def _features(self, split: ClassFolder, runner: Runner) -> Features:
        rank, world = get_dist_info()
        count, data = len(split.pictures), self.config.data
        dealt = torch.arange(-(-count // world) * world).view(-1, world).T  # as many to each, some twice at the end
        part = replace(split, pictures=[split.pictures[number % count] for number in dealt[rank].tolist()])
        batch = max(1, data.batch_size // (world * data.accumulate))
        pictures = EvalSet(part, self.config.model.img_size, 1.0)
        # By the whole model, which gathers its weights where they are split over the processes.
        encode = functools.partial(runner.bare_model, mode="tensor")
        loader = load(pictures, data, runner.device, batch_size=batch)
        parts = from_all(mean_tokens(encode, loader, runner.device, runner.dtype))
        order = dealt.flatten().argsort()[:count]
        return Features(*(torch.cat(values)[order] for values in zip(*parts, strict=True)))


class BestEncoderHook(BestHook):
    """Keeps the encoder that is best by k-NN as ``best_encoder.pth`` and ``.safetensors``."""

    FILE = BEST_ENCODER

    def write(self, runner: Runner, weights: dict[str, Any], meta: dict[str, Any]) -> None:
        prefix = "mixture.model."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        for path in best_files(Path(runner.work_dir)):
            save_weights(encoder_weights(own), path, self.recipe, meta)


def best_files(work_dir: Path) -> list[Path]:
    """Returns where the best encoder is kept."""
    return [work_dir / BEST_ENCODER, (work_dir / BEST_ENCODER).with_suffix(".safetensors")]


def _accuracy(scores: torch.Tensor, features: Features) -> float:
    return (scores.argmax(1) == features.labels).double().mean().item()
