"""From what a user gives to a plan: recipes that fit the data, encoders that fit each other, and what can't be, said first."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from convmae.backbones.families import named_size
from convmae.engine.commands.next_command import CHOICES, choose
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file
from convmae.engine.pictures.duplicates import same_files
from convmae.engine.pictures.folders import list_images
from convmae.engine.shards.places import place
from convmae.engine.training.schedule import Schedule
from convmae.pretraining.auto import choose as fit
from convmae.pretraining.auto import median_side
from convmae.pretraining.config import PretrainingConfig
from convmae.studies.labelled import Labelled, Task
from convmae.studies.plan import PRETRAINED, SCRATCH, SEARCH_SEED, Arm, Plan
from convmae.studies.runs import gpus

OWN = {  # what the study sets itself
    "model.init": "what the arms differ in; give weights by --encoder NAME=FILE",
    "data.root": "given as the data folder, or by --pictures",
    "data.share": "given by --shares",
    "data.share_seed": "given by --seeds",
    "runtime.seed": "given by --seeds",
}
TAKEN = ("log.txt", "worth.json", "report")  # in the work directory, where arms have folders of their names


@dataclass(frozen=True)
class Request:
    """What the command line asks for; ``encoders`` and ``further`` by name, ``rates`` as factors of the recipe's."""

    root: str
    work_dir: Path
    pictures: str | None
    pretrain: bool
    encoders: Sequence[str]
    further: Sequence[str]
    recipe: str | None
    pretrain_recipe: str | None
    shares: Sequence[float]
    seeds: Sequence[int]
    rates: Sequence[float]
    draws: int
    options: Sequence[str]
    pretrain_options: Sequence[str]
    jobs: int | None


class Pretraining(NamedTuple):
    """How is pretrained, on the ``pictures`` of which folder, and how many validation pictures are among them."""

    recipe: str = ""
    options: tuple[str, ...] = ()
    steps: int = 0
    root: str = ""
    pictures: int = 0
    seen: int = 0


@dataclass(frozen=True)
class Settings:
    """A plan, what it is about, and what was found on the way.

    ``pictures``: how many pictures each share has; ``lacking``: which classes a share of a seed lacks; ``devices``: GPUs.
    """

    plan: Plan
    config: Any
    labelled: Labelled
    size: str
    pictures: Mapping[float, int]
    lacking: Mapping[tuple[float, int], Sequence[str]]
    pretraining: Pretraining
    devices: Sequence[str]


def check_request(request: Request) -> dict[str, str]:
    """Returns the files of the encoders by name. Raises UserError for what can be told wrong without a look at the data."""
    encoders: dict[str, str] = {}
    for given in request.encoders:
        name, equals, file = given.partition("=")
        if not equals or not re.fullmatch(r"\w[\w.-]*", name) or not file:
            raise UserError(f"--encoder is {given!r}; expected NAME=FILE, a name of letters, digits, dots, _ and -.")
        if name == SCRATCH or (name == PRETRAINED and request.pretrain):
            raise UserError(
                f"--encoder is {given!r}, but {name} is what the study calls an arm of its own; take another."
            )
        if name in TAKEN:
            raise UserError(f"--encoder is {given!r}, but the study has a {name} of its own; take another name.")
        if name in encoders:
            raise UserError(f"--encoder names {name!r} twice; expected a name for each.")
        check_is_file(file)
        encoders[name] = file
    for name in request.further:
        if name not in encoders:
            raise UserError(
                f"--further is {name!r}; expected an encoder's name: {', '.join(encoders) or 'none is given'}."
            )
        if f"{name}_{PRETRAINED}" in encoders:
            raise UserError(f"--encoder has the name {name}_{PRETRAINED}, which --further {name} makes; take another.")
    if not request.pretrain and not encoders:
        raise UserError("With --no-pretraining there is nothing to compare with scratch; give --encoder NAME=FILE.")
    if request.further and not request.pretrain:
        raise UserError("--further pretrains, and --no-pretraining doesn't; give one of them.")
    for option, values, low, high in (
        ("--shares", request.shares, 0, 100),
        ("--rates", request.rates, 0, 1000),
        ("--seeds", request.seeds, -1, 2**31),
    ):
        if not all(low < value <= high for value in values):
            raise UserError(f"{option} is {' '.join(f'{value:g}' for value in values)}; expected {_expected(option)}.")
    if request.draws < 1:
        raise UserError(f"--draws is {request.draws}; expected 1 or more.")
    for seed in request.seeds:
        if SEARCH_SEED <= seed < SEARCH_SEED + request.draws:
            raise UserError(f"--seeds has {seed}, by which rates are tried; expected others.")
    if request.jobs is not None and request.jobs < 1:
        raise UserError(f"--jobs is {request.jobs}; expected 1 or more.")
    for option, words in (("--cfg-options", request.options), ("--pretrain-options", request.pretrain_options)):
        for word in words:
            key = word.partition("=")[0]
            if key in OWN:
                raise UserError(f"{option} has {word}, but {key} is {OWN[key]}.")
    for folder in (request.root, request.pictures):
        if folder is not None and not place(folder).is_dir():
            raise UserError(f"There is no folder {folder}; expected one of pictures.")
    return encoders


def _expected(option: str) -> str:
    return {
        "--shares": "percent of the labelled pictures, above 0 and at most 100",
        "--rates": "factors of the recipe's learning rate above 0, as 0.3 1 3",
        "--seeds": "whole numbers from 0",
    }[option]


def settle(request: Request, task: Task) -> Settings:
    """Reads the data and returns the study to do. Raises UserError for what can't be studied, before anything is trained."""
    encoders = check_request(request)
    family, size = _kind(encoders)
    given = [*request.options, f"data.root={request.root}"]
    first = request.recipe or CHOICES[task.tool][0].recipe
    config: Any = load_config(task.schema, first, given)
    labelled = task.read(config)
    side = median_side(labelled.training, config.data.reading(config.model.in_chans))
    recipe = request.recipe or choose(task.tool, len(labelled.training), side)
    config = load_config(task.schema, recipe, given)
    size, kind = _settle_size(config, family, size, encoders, request.options)
    config = load_config(task.schema, recipe, [*given, *kind])
    if recipe != first:
        labelled = task.read(config)
    shares, seeds = tuple(sorted(dict.fromkeys(request.shares))), tuple(dict.fromkeys(request.seeds))
    rates = tuple(sorted({float(f"{factor * config.optim.lr:.3g}") for factor in request.rates}))
    searched = range(SEARCH_SEED, SEARCH_SEED + request.draws) if len(rates) > 1 else ()
    pictures, lacking = _check_shares(labelled, shares, [*seeds, *searched])
    schedule = Schedule.build(config.schedule, len(labelled.training), config.data.batch_size)
    devices = gpus(config.runtime.device)
    jobs = request.jobs or len(devices) or os.cpu_count() or 1
    loaders = [] if devices or any(one.startswith("data.workers=") for one in given) else ["data.workers=0"]
    options = [*given, *kind, *loaders, *_fixed_length(schedule)]
    pretraining = _pretraining(request, config, size, labelled, loaders) if request.pretrain else Pretraining()
    plan = Plan(
        work_dir=request.work_dir,
        tool=task.tool,
        recipe=recipe,
        options=tuple(options),
        scratch_options=("optim.layer_decay=1.0",) if config.optim.layer_decay < 1 else (),
        pretrain_recipe=pretraining.recipe,
        pretrain_options=pretraining.options,
        arms=_arms(request, encoders),
        shares=shares,
        seeds=seeds,
        rates=rates,
        search_share=statistics.median_low(shares),
        steps=schedule.total,
        pretraining_steps=pretraining.steps,
        draws=request.draws,
        jobs=jobs,
    )
    return Settings(plan, config, labelled, size, pictures, lacking, pretraining, devices)


def _arms(request: Request, encoders: Mapping[str, str]) -> tuple[Arm, ...]:
    """Returns scratch, what is pretrained here, and what is given."""
    made = {PRETRAINED: "", **{f"{name}_{PRETRAINED}": encoders[name] for name in request.further}}
    here = [
        Arm(name, str(request.work_dir / name / "pretraining" / "encoder.pth"), init)
        for name, init in made.items()
        if request.pretrain
    ]
    return Arm(SCRATCH), *here, *(Arm(name, file) for name, file in encoders.items())


def _fixed_length(schedule: Schedule) -> list[str]:
    """Returns a schedule as options in steps, so that it is the same at all shares; evaluated at its end alone."""
    options = ["schedule.epochs=null", f"schedule.steps={schedule.total}", f"schedule.warmup={schedule.warmup}"]
    if schedule.milestones:
        options.append(f"schedule.milestones=[{','.join(map(str, schedule.milestones))}]")
    return [*options, "schedule.eval_every=0", *_saved(schedule.total)]


def _saved(total: int) -> list[str]:
    return [f"schedule.save_every={total}", "schedule.save_minutes=10", "schedule.keep_checkpoints=1"]


def _kind(encoders: Mapping[str, str]) -> tuple[str, str]:
    """Returns family and size of the encoders, "" where there are none. Raises UserError where they differ."""
    found = {name: named_size(file) for name, file in encoders.items()}
    for name, (family, size) in found.items():
        if not size:
            raise UserError(f"--encoder {name}={encoders[name]} has a size that has no name; expected tiny to huge.")
        first, known = next(iter(found.items()))
        if (family, size) != known:
            raise UserError(
                f"--encoder {name} is a {family} of size {size}, {first} a {known[0]} of size {known[1]}; expected the same of "
                "all, as another size is another model."
            )
    return next(iter(found.values()), ("", ""))


def _settle_size(
    config: Any, family: str, size: str, encoders: Mapping[str, str], options: Sequence[str]
) -> tuple[str, list[str]]:
    """Returns the size of all arms and the options that give it to them. Raises UserError where options ask for another."""
    has_arch = hasattr(config.model, "arch")
    if not size:
        return config.model.size, [f"model.size={config.model.size}"]
    first = next(iter(encoders))
    for key, value in (("size", size), ("arch", family)):
        set_here = any(one.startswith(f"model.{key}=") for one in options)
        if set_here and getattr(config.model, key, value) != value:
            raise UserError(
                f"model.{key} is {getattr(config.model, key)}, and --encoder {first} is a {family} of size {size}; leave "
                f"model.{key} out, or give other weights."
            )
    if family == "vit" and not has_arch:
        raise UserError(f"--encoder {first} is a plain ViT, which this task has no model of; expected a ConvViT.")
    return size, [f"model.size={size}", *([f"model.arch={family}"] if has_arch else [])]


def _check_shares(
    labelled: Labelled, shares: Sequence[float], seeds: Sequence[int]
) -> tuple[dict[float, int], dict[tuple[float, int], list[str]]]:
    """Returns the pictures of each share and the classes that shares lack. Raises UserError for shares that are none."""
    pictures: dict[float, int] = {}
    lacking: dict[tuple[float, int], list[str]] = {}
    for share in shares:
        if round(share / 100 * labelled.smallest) < 1:
            what = "labelled pictures" if labelled.smallest == len(labelled.training) else "pictures of a class"
            raise UserError(
                f"{share:g} % of {labelled.smallest} {what} is less than one picture; give larger --shares."
            )
        for seed in seeds:
            found = labelled.share(share / 100, seed)
            pictures[share] = found.pictures
            if found.lacking:
                lacking[share, seed] = found.lacking
    if len(set(pictures.values())) < len(pictures):
        counts = ", ".join(f"{share:g} % are {count}" for share, count in pictures.items())
        raise UserError(f"Two of the --shares have the same number of pictures ({counts}); expected different ones.")
    return pictures, lacking


def _pretrain_recipe(size: str, arch: str) -> str:
    """Returns the recipe that pretrains a ConvViT of a size. Raises UserError where none is the usual."""
    recipes = [one.recipe for one in CHOICES["pretrain"]] if arch == "convvit" else []
    found = [one for one in recipes if load_config(PretrainingConfig, one).model.size == size]
    if not found:
        raise UserError(
            f"No recipe is the usual one to pretrain a {arch} of size {size}; name one by --pretrain-config."
        )
    return found[-1]


def _pretraining(request: Request, config: Any, size: str, labelled: Labelled, loaders: Sequence[str]) -> Pretraining:
    """Returns how is pretrained. Raises UserError where that makes no encoder for the arms."""
    root, wanted = request.pictures or str(labelled.folder), getattr(config.model, "arch", "convvit")
    recipe = request.pretrain_recipe or _pretrain_recipe(size, wanted)
    given, fitted = request.pretrain_options, [f"model.size={size}"]
    fitted += [f"model.in_chans={config.model.in_chans}"] if config.model.in_chans != 3 else []
    fitted += [f"data.range={config.data.range}".replace(" ", "")] if config.data.range else []
    fitted += [one for one in request.options if one.startswith(("runtime.device=", "runtime.precision="))]
    own = [one for one in fitted if not any(other.startswith(f"{one.partition('=')[0]}=") for other in given)]
    options = [*given, *own, f"data.root={root}", *loaders]
    tree: Any = load_config(PretrainingConfig, recipe, options, "--pretrain-options")
    if not request.pretrain_recipe:
        options += fit(tree, options)[0]
        tree = load_config(PretrainingConfig, recipe, options)
    arch = "vit" if tree.model.method == "mae" else "convvit"
    if arch != wanted or tree.model.size != size:
        raise UserError(
            f"{recipe} pretrains a {arch} of size {tree.model.size}, and the arms are a {wanted} of size {size}; expected the "
            "same: name another --pretrain-config, or set model.size."
        )
    pictures = list_images(root, lambda fault: None, once=True)
    schedule = Schedule.build(tree.schedule, len(pictures), tree.data.batch_size)
    seen = {
        member.place for group in same_files(pictures, labelled.validation) for member in group if member.split == 1
    }
    saved = _saved(schedule.total)
    return Pretraining(recipe, (*options, *saved), schedule.total, root, len(pictures), len(seen))
