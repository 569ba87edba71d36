"""The configuration tree of pretraining."""

from dataclasses import dataclass, field
from typing import Optional

from convmae.engine.config import option
from convmae.engine.options import DataOptions, OptimOptions, RuntimeOptions, ScheduleOptions


@dataclass
class PretrainingModelOptions:
    """The masked autoencoder."""

    method: str = option("fastconvmae", "how an image is masked", ("convmae", "fastconvmae"))
    size: str = option("base", "size of the encoder", ("tiny", "small", "base", "large", "huge"))
    img_size: int = option(224, "side of the square that is cut from a picture, in pixels")
    mask_ratio: float = option(0.75, "part of the tokens that is removed", low=0.0, high=1.0)
    groups: int | None = option(None, "FastConvMAE's complementary masks; null: as many as the ratio leaves room for")
    norm_pix_loss: bool = option(True, "reconstruct pixels normalised by their patch's mean and deviation")
    decoder_dim: Optional[int] = option(None, "width of the decoder; null: the size's own")  # noqa: UP045
    decoder_depth: Optional[int] = option(None, "blocks of the decoder; null: the size's own")  # noqa: UP045
    decoder_heads: Optional[int] = option(None, "heads of the decoder; null: the size's own")  # noqa: UP045
    init: str = option("", "weights to start from; empty: none")


@dataclass
class PretrainingDataOptions(DataOptions):
    """Plain pictures."""

    root: str = option("data/images", "folder of pictures, nested as it may be; class folders are not looked at")
    crop_scale: float = option(0.2, "smallest part of a picture's area that a random crop covers", low=0.0, high=1.0)
    flip: bool = option(True, "mirror half of the crops")


@dataclass
class PretrainingConfig:
    """A pretraining run."""

    model: PretrainingModelOptions = field(default_factory=PretrainingModelOptions)
    data: PretrainingDataOptions = field(default_factory=PretrainingDataOptions)
    optim: OptimOptions = field(default_factory=lambda: OptimOptions(betas=(0.9, 0.95)))
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
