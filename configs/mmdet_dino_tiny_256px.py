"""DINO on ConvMAE-Tiny at 256 px, a few layers and queries, for mmdet's own tools; data and steps are Mask R-CNN's.

A step of 4 pictures takes some three seconds on one core.
"""

_base_ = "mmdet_dino_convmae_25e.py"

import convmae.configs.mmdet_dino_convmae_25e as base  # noqa: E402  (mmengine wants to read _base_ first)
import convmae.configs.mmdet_mask_rcnn_tiny_256px as tiny  # noqa: E402

model = {
    "data_preprocessor": tiny.data_preprocessor,
    "backbone": tiny.backbone,
    "neck": {"in_channels": tiny.widths[1:]},
    "num_queries": 100,
    "encoder": {"num_layers": 2},
    "decoder": {"num_layers": 2},
    "dn_cfg": {"group_cfg": {"num_dn_queries": 20}},
    "test_cfg": {"max_per_img": 100},
}

load, _, *rest = tiny.train_pipeline
train_pipeline = [load, base.annotations, *rest]  # the data may have no masks
load, resize, _, pack = tiny.test_pipeline
test_pipeline = [load, resize, base.annotations, pack]
train_dataloader = {"num_workers": 2, "dataset": {"pipeline": train_pipeline}}
val_dataloader = test_dataloader = {"num_workers": 2, "dataset": {"pipeline": test_pipeline}}

optim_wrapper = {"optimizer": {"lr": 2e-4}}
auto_scale_lr, param_scheduler = tiny.auto_scale_lr, tiny.param_scheduler
train_cfg, default_hooks = tiny.train_cfg, tiny.default_hooks
