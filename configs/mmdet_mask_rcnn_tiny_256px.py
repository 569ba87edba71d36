"""mask_rcnn_tiny_256px.yaml for mmdet's own tools: a laptop's CPU and a few hundred pictures; see docs/mmdetection.md.

Number of classes and data are COCO's here. A step of 4 pictures takes two to three seconds on one core; in 200 steps on
129 pictures of COCO's the loss falls from 6.0 to 2.7, which is too early for any AP.
"""

_base_ = "mmdet_mask_rcnn_convmae_25e.py"

import convmae.configs.mmdet_mask_rcnn_convmae_25e as base  # noqa: E402  (mmengine wants to read _base_ first)

side = 256  # of the square that pictures are fitted into, in pixels
widths = [64, 128, 256, 256]  # of E1..E4
channels = 64  # of pyramid and heads
norm_cfg = {"type": "GN", "num_groups": 8}

extractor = {"out_channels": channels, "finest_scale": 28}  # pixels: a quarter of model.canonical_size
bbox_head = {
    "num_shared_convs": 2,
    "in_channels": channels,
    "conv_out_channels": channels,
    "fc_out_channels": 256,
    "norm_cfg": norm_cfg,
}
data_preprocessor = {"side": side}
backbone = {"size": "tiny", "img_size": side, "drop_path_rate": 0.0}
model = {
    "data_preprocessor": data_preprocessor,
    "backbone": backbone,
    "neck": {"in_channels": widths, "out_channels": channels, "norm_cfg": norm_cfg},
    "rpn_head": {
        "in_channels": channels,
        "feat_channels": channels,
        "num_convs": 1,
        "anchor_generator": {"base_sizes": [16, 32, 64, 128, 256]},
    },
    "roi_head": {
        "bbox_roi_extractor": extractor,
        "bbox_head": bbox_head,
        "mask_roi_extractor": extractor,
        "mask_head": {
            "num_convs": 2,
            "in_channels": channels,
            "conv_out_channels": channels,
            "norm_cfg": norm_cfg,
        },
    },
    "train_cfg": {
        "rpn": {"sampler": {"num": 64}},
        "rpn_proposal": {"nms_pre": 200, "max_per_img": 200},
        "rcnn": {"sampler": {"num": 64}},
    },
    "test_cfg": {"rpn": {"nms_pre": 200, "max_per_img": 200}},
}

train_pipeline = [
    *base.train_pipeline[:3],
    {"type": "RandomResize", "scale": (side, side), "ratio_range": (0.6, 1.5), "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": (side, side), "recompute_bbox": True, "allow_negative_crop": True},
    *base.train_pipeline[5:],
]
test_pipeline = [
    base.test_pipeline[0],
    {"type": "Resize", "scale": (side, side), "keep_ratio": True},
    *base.test_pipeline[2:],
]
train_dataloader = {"num_workers": 2, "dataset": {"pipeline": train_pipeline}}
val_dataloader = test_dataloader = {"num_workers": 2, "dataset": {"pipeline": test_pipeline}}

optim_wrapper = {
    "optimizer": {"lr": 1e-3, "weight_decay": 0.05},
    "paramwise_cfg": {"decay_biases": False},
    "clip_grad": {"max_norm": 5.0, "norm_type": 2},
}
auto_scale_lr = {"base_batch_size": 4}
steps, warmup = 1000, 20
param_scheduler = [
    {"type": "LinearLR", "start_factor": 1e-3, "by_epoch": False, "begin": 0, "end": warmup},
    {"type": "CosineAnnealingLR", "eta_min": 0.0, "by_epoch": False, "begin": warmup, "end": steps},
]
train_cfg = {"max_iters": steps, "val_interval": steps}
default_hooks = {"logger": {"interval": 1}, "checkpoint": {"interval": steps}}
