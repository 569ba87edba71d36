"""Mask2Former on ConvMAE-Tiny at 256 px, a few layers and queries, for mmdet's own tools; data and steps are Mask R-CNN's.

A step of 4 pictures takes some four seconds on one core.
"""

_base_ = "mmdet_mask2former_convmae_25e.py"

import convmae.configs.mmdet_mask_rcnn_tiny_256px as tiny  # noqa: E402  (mmengine wants to read _base_ first)

model = {
    "data_preprocessor": tiny.data_preprocessor,
    "backbone": tiny.backbone,
    "panoptic_head": {
        "in_channels": tiny.widths,
        "num_queries": 50,
        "pixel_decoder": {"encoder": {"num_layers": 2}},
        "transformer_decoder": {"num_layers": 3},
    },
    "train_cfg": {"num_points": 1024},
    "test_cfg": {"max_per_image": 50},
}

train_dataloader = tiny.train_dataloader
val_dataloader = test_dataloader = tiny.val_dataloader
optim_wrapper = {"optimizer": {"lr": 2e-4}}
auto_scale_lr, param_scheduler = tiny.auto_scale_lr, tiny.param_scheduler
train_cfg, default_hooks = tiny.train_cfg, tiny.default_hooks
