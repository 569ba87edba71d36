"""Every option of a classification run, with its default (the paper's fine-tuning recipe) and the line that --help shows."""

from dataclasses import dataclass
from typing import List, Optional  # noqa: UP035  (the spelling that OmegaConf 2.3 reads on every Python)

from convmae.engine.config import branch, option
from convmae.engine.options import (
    LabelledDataOptions,
    LinearProbeOptions,
    OptimOptions,
    RuntimeOptions,
    ScheduleOptions,
    channels_option,
    drop_path_option,
    freeze_option,
    size_option,
)


@dataclass
class ModelOptions:
    """An encoder with its mean-pooled head."""

    arch: str = option("convvit", "kind of encoder: ConvMAE's, or the plain ViT of MAE", ("convvit", "vit"))
    size: str = size_option()
    init: str = option("", "pretrained weights, FILE or FILE:KEY (.pth or .safetensors); empty trains from scratch")
    img_size: int = option(224, "side of the square that the model sees, in pixels", low=16, high=4096)
    freeze: str = freeze_option()
    in_chans: int = channels_option()
    drop_path: float = drop_path_option(0.1)
    smoothing: float = option(0.1, "label smoothing: part of the target spread over all classes", low=0, high=1)


@dataclass
class FolderOptions(LabelledDataOptions):
    """Class folders: one folder of pictures a class, the same names in both splits."""

    root: str = option("data/imagenet", "data folder; the paths below lie in it unless they are absolute")
    train: str = option("train", "folder of the training classes")
    val: str = option("val", "folder of the validation classes")
    per_class: int = option(0, "training pictures of each class, always the same ones; 0: all", low=0)
    test_crop: float = option(
        0.875, "part of the shorter side that the centre crop of a test picture keeps", low=0.1, high=1
    )


@dataclass
class AugmentationOptions:
    """What happens to training pictures."""

    crop_scale: float = option(0.08, "smallest part of a picture's area that a random crop covers", low=0, high=1)
    flip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    rand_augment: str = option("rand-m9-mstd0.5-inc1", "timm's description of RandAugment; empty: none")
    erase: float = option(0.25, "probability of erasing a rectangle", low=0, high=1)
    mixup: float = option(0.8, "parameter of mixup's beta distribution; 0: no mixup", low=0)
    cutmix: float = option(1.0, "parameter of cutmix's beta distribution; 0: no cutmix", low=0)


@dataclass
class FinetuningConfig:
    """The tree that fine-tuning recipes fill."""

    model: ModelOptions = branch(ModelOptions)
    data: FolderOptions = branch(FolderOptions, batch_size=1024)
    augment: AugmentationOptions = branch(AugmentationOptions)
    optim: OptimOptions = branch(OptimOptions, lr=5e-4, lr_batch=256, weight_decay=0.05, layer_decay=0.65)
    schedule: ScheduleOptions = branch(
        ScheduleOptions, epochs=100.0, policy="cosine", warmup=5.0, min_lr=5e-4, eval_every=5.0, save_every=1.0
    )
    runtime: RuntimeOptions = branch(RuntimeOptions)


@dataclass
class EncoderOptions:
    """A frozen encoder."""

    init: str = option(
        "", "pretrained weights, FILE or FILE:KEY (.pth or .safetensors); widths and depths are read from them"
    )
    img_size: int = option(224, "side of the square that the encoder sees, in pixels", low=16, high=4096)
    in_chans: Optional[int] = option(  # noqa: UP045
        None, "channels of the pictures; null: those of the weights. RGB weights serve any number", low=1
    )
    features: str = option(
        "work_dirs/features", "folder that keeps features, so that they are computed once for all probes of an encoder"
    )


@dataclass
class NeighbourOptions:
    """Weighted k-nearest neighbours on frozen features."""

    ks: List[int] = option(lambda: [10, 20, 100], "numbers of neighbours that vote; the first is reported")  # noqa: UP006
    temperature: float = option(0.07, "a neighbour of cosine similarity s votes with exp(s / temperature)", low=1e-4)


@dataclass
class ProbeConfig:
    """The tree of linear probes and k-NN: both read the same features."""

    model: EncoderOptions = branch(EncoderOptions)
    data: FolderOptions = branch(FolderOptions, batch_size=64)
    linear: LinearProbeOptions = branch(LinearProbeOptions)
    knn: NeighbourOptions = branch(NeighbourOptions)
    runtime: RuntimeOptions = branch(RuntimeOptions)
