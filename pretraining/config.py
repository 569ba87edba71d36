"""The configuration tree of pretraining."""

from dataclasses import dataclass
from typing import Dict, List, Optional  # noqa: UP035  (the spelling that OmegaConf 2.3 reads on every Python)

from convmae.engine.config import branch, option
from convmae.engine.options import (
    DataOptions,
    OptimOptions,
    RuntimeOptions,
    ScheduleOptions,
    channels_option,
    size_option,
)

METHOD_NAMES = ("fastconvmae", "convmae", "mae")
PIXELS, EMA = "pixels", "ema"  # teachers that are no network of their own
KNN, LINEAR, RANK = "knn_top1", "linear_top1", "rankme"  # what a look at the encoder gives


@dataclass
class PretrainingModelOptions:
    """The masked autoencoder."""

    method: str = option(
        "fastconvmae",
        "encoder and masks: fastconvmae has complementary masks, convmae one, mae one before a plain ViT",
        METHOD_NAMES,
    )
    size: str = size_option()
    img_size: int = option(224, "side of the square that is cut from a picture, in pixels", low=32, high=4096)
    in_chans: int = channels_option()
    mask_ratio: float = option(0.75, "part of the tokens that is removed", low=0.0, high=1.0)
    groups: int | None = option(
        None, "complementary masks, for fastconvmae alone; null: as many as the ratio leaves room for", low=2
    )
    decoder_dim: Optional[int] = option(None, "width of the decoder; null: the size's own", low=4, high=8192)  # noqa: UP045
    decoder_depth: Optional[int] = option(None, "blocks of the decoder; null: the size's own", low=0, high=256)  # noqa: UP045
    decoder_heads: Optional[int] = option(None, "heads of the decoder; null: the size's own", low=1)  # noqa: UP045
    branch_depth: int = option(1, "of the decoder's blocks, the last that each target has for itself", low=0, high=256)
    init: str = option("", "weights to start from, FILE or FILE:KEY; empty: none")


def module_name(teacher: str) -> str:
    """A teacher's name as a module may have it: without the dots of timm's names."""
    return teacher.replace(".", "_")


@dataclass
class Target:
    """One thing to predict: whose values, of which tokens, from where, and how they are compared."""

    teacher: str = option(
        PIXELS, "pixels, ema (the encoder's own average), dino, dinov3, clip, or the name of a timm model"
    )
    tokens: str = option("removed", "tokens that are predicted", ("removed", "visible"))
    at: str = option("decoder", "whose output predicts; the encoder has visible tokens alone", ("decoder", "encoder"))
    norm: str = option(
        "auto", "of the target, token by token; auto: patch for pixels, layer else", ("auto", "patch", "layer", "none")
    )
    loss: str = option(
        "auto", "how far off; auto: mse for pixels, smooth_l1 (beta 2) else", ("auto", "mse", "smooth_l1", "cosine")
    )
    weight: float = option(1.0, "factor of this loss in the sum", low=0.0)

    @property
    def name(self) -> str:
        """What the log, the scalars and the weights call it."""
        return f"{module_name(self.teacher)}_{self.tokens}_{self.at}"

    @property
    def norm_used(self) -> str:
        """The normalisation, where `auto` stands for the teacher's."""
        usual = "patch" if self.teacher == PIXELS else "layer"
        return usual if self.norm == "auto" else self.norm

    @property
    def loss_used(self) -> str:
        """The loss, where `auto` stands for the teacher's."""
        usual = "mse" if self.teacher == PIXELS else "smooth_l1"
        return usual if self.loss == "auto" else self.loss

    def describe(self) -> str:
        """Returns what is compared how, for the log and the report."""
        return f"{self.teacher} ({self.norm_used} norm) on {self.tokens} tokens at the {self.at}, {self.loss_used}"


@dataclass
class TeacherOptions:
    """Where the targets' teachers come from."""

    weights: Dict[str, str] = option(  # noqa: UP006
        dict,
        "local files by teacher, as teachers.weights.dino=dino.pth; a teacher without one is fetched from timm's hub",
    )
    ema_start: float = option(0.996, "momentum of the ema teacher at the start, rising by a cosine", low=0, high=1)
    ema_end: float = option(0.9999, "momentum of the ema teacher at the end of the run", low=0, high=1)


@dataclass
class PretrainingDataOptions(DataOptions):
    """Plain pictures."""

    on_bad_image: str = option(
        "skip", "what a picture that can't be read does: stop the run, or skip to another", ("stop", "skip")
    )
    root: str = option("data/images", "folder of pictures, nested as it may be; class folders are not looked at")
    crop_scale: float = option(0.2, "smallest part of a picture's area that a random crop covers", low=0.0, high=1.0)
    flip: bool = option(True, "mirror half of the crops")


@dataclass
class ProbeOptions:
    """What the encoder's features are worth as it is trained, on pictures in class folders beside the training pictures."""

    every: int = option(0, "steps between two looks at the encoder, each after a checkpoint; 0: never", low=0)
    root: str = option("", "folder with train and val, each with a folder of pictures a class")
    pictures: int = option(0, "of each of the two at most so many pictures, spread over the classes; 0: all", low=0)
    neighbours: int = option(20, "training pictures nearest to a validation picture that vote for its class", low=1)
    temperature: float = option(0.07, "a neighbour of cosine similarity s votes with exp(s / temperature)", low=1e-4)
    linear: bool = option(False, "train linear classifiers on the features, too, as tools/linear_probe.py does")


@dataclass
class PretrainingConfig:
    """A pretraining run."""

    model: PretrainingModelOptions = branch(PretrainingModelOptions)
    targets: List[Target] = option(lambda: [Target()], "what is predicted, each the sum's part")  # noqa: UP006
    teachers: TeacherOptions = branch(TeacherOptions)
    data: PretrainingDataOptions = branch(PretrainingDataOptions)
    probe: ProbeOptions = branch(ProbeOptions)
    optim: OptimOptions = branch(OptimOptions, betas=(0.9, 0.95))
    schedule: ScheduleOptions = branch(ScheduleOptions)
    runtime: RuntimeOptions = branch(RuntimeOptions)

    @property
    def norm_pix_loss(self) -> bool:
        """Whether pixels are predicted less their patch's mean, over its deviation."""
        return all(target.norm_used == "patch" for target in self.targets if target.teacher == PIXELS)
