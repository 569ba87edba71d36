"""Every option of a detection run, with its default (the paper's COCO recipe) and the line that --help shows."""

from dataclasses import dataclass
from typing import List  # noqa: UP035  (the spelling that OmegaConf 2.3 reads on every Python)

from convmae.engine.config import branch, option
from convmae.engine.errors import UserError
from convmae.engine.options import (
    EvaluatedDataOptions,
    OptimOptions,
    RuntimeOptions,
    ScheduleOptions,
    channels_option,
    check_scales,
    drop_path_option,
    freeze_option,
    size_option,
)

# The recipes that detectors of other frameworks are of: the published ones, the public ViTDet port's, and what
# configs/mmdet_mask_rcnn_convmae_25e.py trains.
PUBLISHED, PORT, MMDET = (
    "mask_rcnn_convmae_w16_25e.yaml",
    "mask_rcnn_convmae_simple_25e.yaml",
    "mask_rcnn_convmae_25e.yaml",
)
SMALLEST, LARGEST = 32, 8192  # side of the square that a picture is fitted into, in pixels


@dataclass
class ModelOptions:
    """Mask R-CNN on ConvViTDet."""

    size: str = size_option()
    init: str = option(
        "", "pretrained weights, FILE or FILE:KEY (.pth or .safetensors), whole or encoder alone; empty: from scratch"
    )
    freeze: str = freeze_option()
    in_chans: int = channels_option()
    window_size: int = option(
        7, "side of the attention windows of stage 3, in tokens; the released detector has 16", low=1, high=512
    )
    global_blocks: List[int] = option(  # noqa: UP006
        list, "blocks of stage 3, from 0, that attend globally instead; empty spreads four of them: [0, 3, 6, 10] of 11"
    )
    attend_to_padding: bool = option(False, "attend to the zeros that fill up windows at the border, as ViTDet does")
    position: str = option(
        "shared",
        "relative positions of stage 3: two tables shared by its blocks, or each block's own for rows and columns",
        ("shared", "decomposed"),
    )
    pretrain_img_size: int = option(
        0,
        "side of the pictures whose grid the absolute positions are kept at, in pixels; 0: data.img_size",
        low=0,
        high=8192,
    )
    pyramid: str = option(
        "fpn", "feature pyramid: a network on four maps of the encoder, or ViTDet's on its last", ("fpn", "simple")
    )
    drop_path: float = drop_path_option(0.1)
    masks: bool = option(True, "predict masks; false for data with boxes alone")
    cascade: bool = option(
        False,
        "three box heads in a row, each stricter, and on the boxes that the one before moved (Cascade Mask R-CNN)",
    )
    norm: str = option(
        "syncbn",
        "norm in pyramid and heads: bn counts each process's pictures, syncbn those of all; gn and ln suit small batches",
        ("syncbn", "bn", "gn", "ln", "none"),
    )
    fpn_channels: int = option(
        256, "channels of the pyramid; the heads' cost grows with their square", low=1, high=8192
    )
    anchor_sizes: List[float] = option(  # noqa: UP006
        lambda: [32.0, 64.0, 128.0, 256.0, 512.0], "side of the square anchor on p2..p6, in pixels", low=1, length=5
    )
    anchor_ratios: List[float] = option(  # noqa: UP006
        lambda: [0.5, 1.0, 2.0], "height over width of the anchors", low=0.01
    )
    canonical_size: float = option(
        224.0, "side of a box that is pooled from p4, in pixels; half of it goes to p3", low=1
    )
    rpn_convs: int = option(2, "3x3 convolutions before the proposals", low=1, high=64)
    rpn_sampled: int = option(256, "anchors a picture that the proposals learn from", low=1)
    pre_nms_train: int = option(2000, "proposals of each level that enter suppression in training", low=1)
    post_nms_train: int = option(1000, "proposals that leave it in training", low=1)
    pre_nms_test: int = option(1000, "proposals of each level that enter suppression in testing", low=1)
    post_nms_test: int = option(1000, "proposals that leave it in testing", low=1)
    roi_sampled: int = option(
        512, "proposals a picture that the heads learn from, a quarter of them objects at most", low=1
    )
    box_convs: List[int] = option(lambda: [256] * 4, "channels of the box head's convolutions", low=1, high=8192)  # noqa: UP006
    box_hidden: List[int] = option(lambda: [1024], "channels of the box head's linear layers", low=1, high=8192)  # noqa: UP006
    mask_convs: List[int] = option(lambda: [256] * 4, "channels of the mask head's convolutions", low=1, high=8192)  # noqa: UP006
    score_threshold: float = option(0.05, "detections of less confidence are dropped", low=0, high=1)
    nms_threshold: float = option(
        0.5, "overlap (IoU) above which the less sure of two detections of a class is dropped", low=0, high=1
    )
    detections: int = option(100, "detections kept of a picture", low=1)


@dataclass
class DetectionDataOptions(EvaluatedDataOptions):
    """COCO-format data: a JSON file and a folder of pictures for each split."""

    root: str = option("data/coco", "data folder; the paths below lie in it unless they are absolute")
    train_images: str = option("train2017", "folder of training pictures")
    train_annotations: str = option("annotations/instances_train2017.json", "their COCO JSON file")
    val_images: str = option("val2017", "folder of validation pictures")
    val_annotations: str = option("annotations/instances_val2017.json", "their COCO JSON file")
    limit: int = option(
        0,
        "train on the first so many pictures by id that hold an object, and validate on them: overfits on purpose; 0: all",
        low=0,
    )
    keep_empty: bool = option(True, "train on pictures without objects too")
    img_size: int = option(
        1024, "side of the square that pictures are fitted into or cut to, in pixels", low=SMALLEST, high=LARGEST
    )
    padding: str = option(
        "grey", "colour of the square beyond the picture: mean is ImageNet's, zero once normalised", ("grey", "mean")
    )
    jitter: List[float] = option(  # noqa: UP006
        lambda: [0.1, 2.0],
        "large-scale jitter: a training picture is fitted into the square times a factor drawn from here",
        low=0.01,
        length=2,
    )
    flip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    check_pictures: int = option(
        3000,
        "pictures whose size is compared with the JSON before training starts; beyond, an even sample of them",
        low=0,
    )


@dataclass
class InferenceOptions:
    """From which views of a picture its objects are found."""

    scales: List[float] = option(  # noqa: UP006
        lambda: [1.0],
        "sizes of the square that a picture is fitted into, as factors of data.img_size; boxes found at all are merged, "
        "masks averaged",
    )
    flip: bool = option(False, "merge and average in the mirrored picture's boxes and masks, too")
    square: bool = option(
        True,
        "compute the whole square that a picture is fitted into, as in training; false: of a single view the picture alone, "
        "which is faster",
    )

    def sides(self, img_size: int) -> tuple[int, ...]:
        """Returns the side of each square, in pixels. Raises UserError for scales that make none."""
        check_scales(self.scales)
        for scale in self.scales:
            if not SMALLEST <= img_size * scale <= LARGEST:
                raise UserError(
                    f"inference.scales has {scale:g}, which makes a square of {img_size * scale:g} pixels of "
                    f"data.img_size={img_size}; expected {SMALLEST} to {LARGEST} pixels."
                )
        return tuple(round(img_size * scale) for scale in self.scales)


@dataclass
class DetectionConfig:
    """The tree that detection recipes fill."""

    model: ModelOptions = branch(ModelOptions)
    data: DetectionDataOptions = branch(DetectionDataOptions, batch_size=32)
    inference: InferenceOptions = branch(InferenceOptions)
    optim: OptimOptions = branch(OptimOptions, lr=8e-5, lr_batch=32, weight_decay=0.1, decay_biases=True)
    schedule: ScheduleOptions = branch(
        ScheduleOptions, epochs=25.0, policy="cosine", warmup=0.125, warmup_factor=0.001, eval_every=5.0
    )
    runtime: RuntimeOptions = branch(RuntimeOptions)
