"""The branches of the configuration tree that every task shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple, Union  # noqa: UP035  (the spelling that OmegaConf 2.3 reads on every Python)

from convmae.engine.config import option
from convmae.engine.errors import UserError
from convmae.engine.faults import UNREADABLE, Effect, Fault
from convmae.engine.pictures.reading import MAX_PIXELS, Reading

AUTO = "auto"  # in place of a number
SIZES = ("tiny", "small", "base", "large", "huge")  # of encoders
MOST_SCALES = 16  # at which a picture is predicted


def channels_option() -> int:
    """Returns the option of a model that takes other pictures than RGB."""
    return option(
        3, "channels of the pictures: 3 are RGB, 1 is grey, others are bands of TIFF, .npy or RGBA files", low=1
    )


def size_option() -> str:
    """Returns the option of a model's encoder."""
    return option("base", "size of the encoder", SIZES)


def drop_path_option(default: float) -> float:
    """Returns the option of stochastic depth."""
    return option(default, "rate of dropped residual paths, rising linearly over the blocks to this", low=0, high=0.99)


def check_scales(scales: Sequence[float]) -> None:
    """Raises UserError unless ``inference.scales`` is a list of factors by which pictures can be resized."""
    if not 0 < len(scales) <= MOST_SCALES or min(scales) <= 0:
        found = scales if len(scales) <= MOST_SCALES else f"a list of {len(scales)}"
        raise UserError(
            f"inference.scales is {found}; expected 1 to {MOST_SCALES} factors above 0, such as [0.75, 1.0, 1.25]."
        )


def describe_views(scales: Sequence[float], flip: bool) -> str:
    """Returns from how many views of a picture is predicted, and which, for logs and reports."""
    sizes = ", ".join(f"{scale:g}" for scale in scales)
    return f"{len(scales) * (1 + flip)} a picture, scale {sizes}" + (", mirrored too" if flip else "")


def freeze_option() -> str:
    """Returns the option of an encoder that is not, or not all, trained."""
    return option(
        "none",
        "what of the encoder stays as model.init has it: nothing, its stem (all below the transformer blocks), or all of it",
        ("none", "stem", "encoder"),
    )


@dataclass
class ReadingOptions:
    """How pictures are read from their files."""

    range: Optional[List[float]] = option(  # noqa: UP006, UP045
        None,
        "values that become black and white in pictures of more than 8 bits, such as [0, 4095] for 12 bits kept in 16; null: "
        "all that a file of its kind can hold",
        length=2,
    )
    max_pixels: int = option(MAX_PIXELS, "width times height beyond which a picture or label map is refused", low=1)

    def reading(self, channels: int = 3) -> Reading:
        """Returns how a run with these options reads its pictures. Raises UserError for a range that is none."""
        if self.range is None:
            return Reading(channels, None, self.max_pixels)
        low, high = self.range
        if low >= high:
            raise UserError(
                f"data.range is {self.range}; expected the value of black and a larger one of white, such as [0, 4095]."
            )
        return Reading(channels, (low, high), self.max_pixels)


@dataclass
class DataOptions(ReadingOptions):
    """How pictures reach the model."""

    batch_size: int = option(16, "pictures in one optimiser step, over all processes and accumulated parts", low=1)
    accumulate: int = option(1, "parts that a process splits its share of the batch into, to save memory", low=1)
    workers: Union[int, str] = option(  # noqa: UP007
        AUTO,
        "loader processes beside each training process; 0 loads in the training process, auto follows from its cores",
        (AUTO,),
        low=0,
    )
    keep: str = option(
        "none",
        "memory keeps the training pictures decoded, once for all loader processes, as they are read first: the same samples, "
        "faster, for a set that fits in memory",
        ("none", "memory"),
    )
    timeout: float = option(
        600.0, "seconds to wait for a batch of the loader processes before the run ends, saying so; 0: no limit", low=0
    )
    on_bad_image: str = option(
        "stop", "what a training picture that can't be read does: stop the run, or skip to another", ("stop", "skip")
    )
    bad_share: float = option(
        0.001,
        "part of the training pictures that may be skipped; where more can't be read, the run stops",
        low=0,
        high=1,
    )

    def let_skip(self, faults: List[Fault], pictures: int, count: int = 0) -> None:  # noqa: UP006
        """Has training pictures that can't be read stop nothing, if a run is to skip them and they are few enough of all.

        Adds a fault where they are many of the ``count`` that were read (0: all).
        """
        found = [fault for fault in faults if fault.kind == UNREADABLE]
        if self.on_bad_image != "skip" or len(found) > self.bad_share * pictures:
            return
        for fault in found:
            fault.effect = Effect.SKIPPED
        if count and len(found) > self.bad_share * count:
            message = (
                f"{len(found)} of {count} training pictures that were read can't be, more than "
                f"data.bad_share={self.bad_share:g}; a run stops where that holds of all {pictures}. Read "
                "them all, without --pictures"
            )
            faults.append(Fault("samples with many unreadable pictures", message, Effect.DOUBTFUL))


@dataclass
class LabelledDataOptions(DataOptions):
    """How pictures with labels reach the model, and how many of them."""

    share: float = option(
        1.0,
        "part of the training pictures to learn from, to see what fewer labels give; a larger part holds a smaller one; in "
        "classification, a part of each class",
        low=1e-6,
        high=1,
    )
    share_seed: int = option(0, "which pictures data.share takes: another seed draws others", low=0)


@dataclass
class EvaluatedDataOptions(LabelledDataOptions):
    """How pictures reach the model, in evaluation too."""

    eval_batch_size: int = option(
        1, "pictures that each process evaluates at a time; the numbers stay the same, a GPU is used better", low=1
    )


@dataclass
class OptimOptions:
    """AdamW and its parameter groups."""

    lr: float = option(1e-4, "learning rate at a batch of lr_batch pictures", low=0)
    lr_batch: int = option(
        0, "batch that lr is meant for: the rate used is lr * batch_size / lr_batch; 0 takes lr as it is", low=0
    )
    betas: Tuple[float, float] = option(  # noqa: UP006
        (0.9, 0.999), "AdamW's decay of the two moments", low=0, high=0.99999, length=2
    )
    weight_decay: float = option(0.05, "weight decay; norms, biases, positions and tables have none", low=0)
    decay_biases: bool = option(False, "decay the biases of linear layers and convolutions too, as detectron2 does")
    layer_decay: float = option(
        1.0, "factor of the learning rate from each layer to the one below it; 1 is none", low=0, high=1
    )
    clip_grad: float = option(0.0, "largest norm of the gradient; 0 does not clip", low=0)
    average: float = option(
        0.0,
        "decay of a moving average of the weights (0.9999, say), which is evaluated and exported in their place; 0: none",
        low=0,
        high=1,
    )


@dataclass
class ScheduleOptions:
    """Length of the run and learning rate over it; all lengths are in epochs if `epochs` is set, in steps if `steps` is.

    ``notes``: what was fitted to a length that replaces the recipe's, or to a recipe's that replaces its base's.
    """

    notes = tuple[str, ...]()  # no option: nothing of a recipe's

    epochs: Optional[float] = option(None, "length of the run in passes over the training pictures")  # noqa: UP045
    steps: Optional[int] = option(  # noqa: UP045
        None, "length of the run in optimiser steps, instead of epochs", low=1, high=10**12
    )
    policy: str = option("cosine", "course of the learning rate after warm-up", ("cosine", "poly", "step", "constant"))
    warmup: float = option(0.0, "length of the linear warm-up", low=0)
    warmup_factor: float = option(0.001, "part of the learning rate that the warm-up starts from", low=0)
    min_lr: float = option(0.0, "part of the learning rate that cosine and poly end at", low=0)
    power: float = option(1.0, "exponent of the poly policy", low=0)
    milestones: List[float] = option(list, "where the step policy multiplies the rate by gamma")  # noqa: UP006
    gamma: float = option(0.1, "factor of the step policy", low=0)
    eval_every: float = option(0.0, "how often to evaluate on the validation pictures; 0: once, at the end", low=0)
    save_every: float = option(
        0.0,
        "how often to write a checkpoint; 0: at every tenth of the run. One comes before each evaluation, too",
        low=0,
    )
    save_minutes: float = option(
        30.0, "minutes without a checkpoint after which one is written besides; 0: none by time", low=0
    )
    keep_checkpoints: int = option(2, "newest checkpoints kept; -1 keeps all", low=-1)

    def settle(self, recipe: "ScheduleOptions", given: Mapping[str, Any]) -> list[str]:
        """Has a length that was ``given`` replace the recipe's, in whichever unit, and fits the recipe's other lengths to it.

        ``recipe`` is what lies below: a recipe to a command line, its base to a recipe. Returns what was fitted, in words.

        In another unit they keep their parts of the run. In the recipe's own they stay as they are; but a shorter run has a
        warm-up of a tenth of it at most, or of the recipe's part where that is more.
        """
        for unit, other in (("steps", "epochs"), ("epochs", "steps")):
            if given.get(unit) is not None and given.get(other) is None:
                setattr(self, other, None)
        before, after = (one.steps if one.epochs is None else one.epochs for one in (recipe, self))
        if not before or not after:  # which is refused when the schedule is built
            return []
        notes, fitted = [], dict[str, Any]()
        if (recipe.epochs is None) != (self.epochs is None):
            fitted = {name: getattr(recipe, name) * after / before for name in ("warmup", "eval_every", "save_every")}
            fitted["milestones"] = [one * after / before for one in recipe.milestones]
        elif after < before:
            fitted["warmup"] = min(recipe.warmup, max(0.1, recipe.warmup / before) * after)
        unit, old = ("steps" if self.epochs is None else "epochs"), ("steps" if recipe.epochs is None else "epochs")
        for name, value in fitted.items():
            if name not in given and value != getattr(recipe, name):
                setattr(self, name, value)
                shown, was = (_lengths(one) for one in (value, getattr(recipe, name)))
                notes.append(
                    f"schedule.{name} is {shown} {unit} of {after:g}, for {was} {old} of the recipe's {before:g}"
                )
        return notes


def _lengths(value: Any) -> str:
    return ", ".join(f"{one:g}" for one in value) if isinstance(value, list) else f"{value:g}"


@dataclass
class LinearProbeOptions:
    """A linear classifier on frozen features, by LARS."""

    epochs: int = option(90, "passes over the training features", low=1)
    batch_size: int = option(4096, "features a step; smaller sets take all of theirs", low=2)
    lrs: List[float] = option(  # noqa: UP006
        lambda: [0.03, 0.1, 0.3, 1.0, 3.0],
        "learning rates at a batch of 256, each its own classifier; the best is reported",
    )
    warmup: int = option(10, "epochs of linear warm-up", low=0)
    views: int = option(
        0,
        "random crops of each training picture, of which an epoch takes one by turns (all stay in memory); 0: the centre crop",
        low=0,
    )
    crop_scale: float = option(0.08, "smallest part of a picture's area that a view covers", low=0, high=1)


@dataclass
class RuntimeOptions:
    """Where and how the run is computed."""

    seed: int = option(0, "every random draw follows from it", low=0)
    device: str = option("auto", "where to compute", ("auto", "cpu", "cuda"))
    precision: str = option(
        "auto", "auto takes bf16 where the GPU or CPU multiplies it fast, else fp32", ("auto", "fp32", "bf16", "fp16")
    )
    tf32: bool = option(
        False,
        "on a GPU, multiply and convolve fp32 numbers as TF32, whose mantissa has 10 bits of 23: faster; false: fp32 is fp32",
    )
    compile: bool = option(
        False, "compile what has the same shapes at every training step by torch.compile: slower to start, faster after"
    )
    compile_mode: str = option(
        "default",
        "reduce-overhead captures CUDA graphs, for tiny and small models on a GPU",
        ("default", "reduce-overhead"),
    )
    shard: bool = option(
        False, "split weights, gradients and moments over the processes (FSDP2), where DDP has all of them in each"
    )
    checkpoint_activations: bool = option(
        False, "recompute activations in backward: less memory, about a third more time"
    )
    bad_steps: int = option(
        10, "steps in a row with a gradient that is not finite, each skipped, after which the run stops", low=1
    )
    timeout: float = option(
        1800.0,
        "seconds that several processes wait for one another before the run ends, saying so: one of them may evaluate, write "
        "or compile meanwhile",
        low=1,
        high=1e7,
    )
    tracker: str = option(
        "none",
        "W&B or MLflow, which gets the curves, too: by its own library, if that is installed, set up by its own variables",
        ("none", "wandb", "mlflow"),
    )
    log_every: int = option(0, "steps between two log lines; 0: about a hundred over the run", low=0)
