"""Every option of a segmentation run, with its default (the paper's ADE20K recipe) and the line that --help shows."""

from dataclasses import dataclass
from typing import List  # noqa: UP035  (the spelling that OmegaConf 2.3 reads on every Python)

from convmae.engine.config import branch, option
from convmae.engine.options import (
    EvaluatedDataOptions,
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
    """UPerNet on ConvViTSeg."""

    size: str = size_option()
    init: str = option(
        "", "pretrained encoder weights, FILE or FILE:KEY (.pth or .safetensors); empty trains from scratch"
    )
    freeze: str = freeze_option()
    in_chans: int = channels_option()
    drop_path: float = drop_path_option(0.2)
    downsample: str = option(
        "conv", "E4 from E3 by a strided convolution, which learns, or by 2x2 max-pooling", ("conv", "max_pool")
    )
    decode_channels: int = option(
        768, "channels of UPerNet; cost grows with their square, 64 to 128 suit a laptop", low=1, high=8192
    )
    pool_scales: List[int] = option(  # noqa: UP006
        lambda: [1, 2, 3, 6], "grids that the pyramid pooling averages over", low=1, high=512
    )
    dropout: float = option(0.1, "rate of dropped channels before the classifiers", low=0, high=0.99)
    aux_channels: int = option(256, "channels of the auxiliary head on E3", low=1, high=8192)
    aux_weight: float = option(0.4, "weight of the auxiliary loss; 0 leaves the head out", low=0)


@dataclass
class SegmentationDataOptions(EvaluatedDataOptions):
    """Pictures and label maps: the same relative path, label maps as 8-bit PNG with one class index a pixel."""

    root: str = option("data/ade20k", "data folder; the folders below lie in it unless they are absolute")
    train_images: str = option("images/training", "folder of training pictures, nested folders included")
    train_labels: str = option("annotations/training", "folder of their label maps")
    val_images: str = option("images/validation", "folder of validation pictures")
    val_labels: str = option("annotations/validation", "folder of their label maps")
    classes: str = option(
        "",
        "class list: a file with a name (or label, tab, name) a line; empty takes classes.txt of root; ade20k does so, too, or "
        "takes ADE20K's 150 names where root has none",
    )
    reduce_zero_label: bool = option(
        True, "label 0 means other and is ignored, 1..N are the classes (ADE20K); false: 0..N-1 are the classes"
    )
    scale: List[int] = option(  # noqa: UP006
        lambda: [2048, 512], "long and short side that a picture must fit in after resizing, in pixels", low=1, length=2
    )
    ratio_range: List[float] = option(  # noqa: UP006
        lambda: [0.5, 2.0], "training multiplies the scale by a factor drawn from here", low=0.01, length=2
    )
    crop: int = option(512, "side of the square training crop, in pixels", low=1, high=8192)
    cat_max_ratio: float = option(
        0.75, "a crop that one class fills beyond this part is drawn again, ten times at most", low=0, high=1
    )
    flip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    photometric: bool = option(True, "distort brightness, contrast, saturation and hue")
    repeat_rare: float = option(
        0.0,
        "repeat training pictures with classes that occur in less than this part of them, by sqrt(part / occurrence); 0: none",
        low=0,
        high=1,
    )
    check_pixels: int = option(
        1000,
        "pictures decoded whole before training starts; beyond, an even sample of them (label maps are all decoded)",
        low=0,
    )


@dataclass
class LossOptions:
    """How much each pixel counts in the cross-entropy of both heads."""

    class_weights: List[float] = option(  # noqa: UP006
        list,
        "weight of each class, in the order of the class list; the loss is multiplied by them as they are, so let them average "
        "1; empty: all 1",
        low=0,
    )
    balance: bool = option(
        False, "weigh classes by their share of the training pixels, 1 / ln(1.02 + share), which is 1 on average"
    )
    ohem: float = option(
        0.0,
        "learn only from pixels whose true class is given less than this probability (hard example mining; 0.7 is usual); "
        "0: from all",
        low=0,
        high=1,
    )
    ohem_kept: int = option(100_000, "hardest pixels of each crop from which is learnt in any case", low=2)


@dataclass
class InferenceOptions:
    """How a picture is labelled."""

    mode: str = option(
        "slide", "the whole picture at once, or overlapping windows whose scores are averaged", ("whole", "slide")
    )
    crop: int = option(512, "side of a window, in pixels", low=1)
    stride: int = option(341, "step between windows, in pixels", low=1)
    window_batch: int = option(4, "windows computed at a time", low=1)
    scales: List[float] = option(  # noqa: UP006
        lambda: [1.0],
        "sizes of the picture, as factors of data.scale, whose class probabilities are averaged; published multi-scale "
        "results take [0.5, 0.75, 1.0, 1.25, 1.5, 1.75] and flip",
    )
    flip: bool = option(False, "average in the mirrored picture's probabilities, too")


@dataclass
class SegmentationConfig:
    """The tree that segmentation recipes fill."""

    model: ModelOptions = branch(ModelOptions)
    data: SegmentationDataOptions = branch(SegmentationDataOptions)
    loss: LossOptions = branch(LossOptions)
    inference: InferenceOptions = branch(InferenceOptions)
    optim: OptimOptions = branch(OptimOptions, lr=1e-4, weight_decay=0.05, layer_decay=0.75)
    schedule: ScheduleOptions = branch(
        ScheduleOptions,
        steps=160_000,
        policy="poly",
        warmup=1500,
        warmup_factor=1e-6,
        eval_every=16_000,
        save_every=16_000,
    )
    runtime: RuntimeOptions = branch(RuntimeOptions)
