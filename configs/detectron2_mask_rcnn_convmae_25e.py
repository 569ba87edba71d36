"""mask_rcnn_convmae_w16_25e.yaml for detectron2's own trainer (tools/lazyconfig_train_net.py); see docs/detectron2.md.

Published with these settings: 53.2 box AP, 47.1 mask AP, in batches of 32; 92,187 steps.
"""

from functools import partial

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from convmae.detection.detectron2 import FEATURES, ConvViTDet, GreyPaddedRCNN

image_size = 1024  # the side of the square that pictures are fitted into, in pixels

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model._target_ = GreyPaddedRCNN
model.input_format = "RGB"
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
model.backbone = LazyCall(FPN)(
    bottom_up=LazyCall(ConvViTDet)(
        size="base",
        img_size=image_size,
        window_size=16,
        global_blocks=[0, 3, 6, 10],
        drop_path_rate=0.1,
        checkpoint_activations=False,
        init="",  # pretrained weights of the encoder; a whole detector goes into train.init_checkpoint
    ),
    in_features=list(FEATURES),
    out_channels=256,
    norm="SyncBN",
    top_block=LazyCall(LastLevelMaxPool)(),
    square_pad="${.bottom_up.img_size}",
)
model.proposal_generator.head.conv_dims = [-1, -1]
model.roi_heads.box_head.conv_dims = [256] * 4
model.roi_heads.box_head.fc_dims = [1024]
# A process may have no object to learn a mask from, and PyTorch's own SyncBatchNorm takes no empty batch.
model.roi_heads.box_head.conv_norm = partial(NaiveSyncBatchNorm, stats_mode="N")
model.roi_heads.mask_head.conv_norm = partial(NaiveSyncBatchNorm, stats_mode="N")

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper.image_format = "RGB"
dataloader.train.mapper.recompute_boxes = True  # of what a crop left of an object
dataloader.train.mapper.augmentations = [
    LazyCall(T.RandomFlip)(horizontal=True),
    LazyCall(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=image_size, target_width=image_size),
    LazyCall(T.FixedSizeCrop)(crop_size=(image_size, image_size)),  # it pads with grey too
]
dataloader.train.total_batch_size = 32
dataloader.test.mapper.augmentations = [
    LazyCall(T.ResizeShortestEdge)(short_edge_length=image_size, max_size=image_size),
]

optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.lr = 8e-5
optimizer.weight_decay = 0.1
optimizer.params.overrides = {
    "pos_embed": {"weight_decay": 0.0},
    "relative_position_bias_table": {"weight_decay": 0.0},
}

train = model_zoo.get_config("common/train.py").train
train.amp.enabled = True
train.max_iter = 92187  # 25 epochs of 118,000 pictures
train.checkpointer.period = train.max_iter // 25
train.eval_period = train.max_iter // 5

lr_multiplier = LazyCall(WarmupParamScheduler)(
    scheduler=LazyCall(CosineParamScheduler)(start_value=1.0, end_value=0.0), warmup_length=0.005, warmup_factor=0.001
)
