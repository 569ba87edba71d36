"""upernet_convmae_160k_ade20k.yaml for mmseg's own tools (tools/train.py, tools/test.py); see docs/mmsegmentation.md.

Published with these settings: 51.7 mIoU (single scale) from the 1600-epoch encoder, in batches of 16.
"""

custom_imports = {"imports": ["convmae.segmentation.backbone"], "allow_failed_imports": False}
default_scope = "mmseg"

crop_size = (512, 512)
norm_cfg = {"type": "SyncBN", "requires_grad": True}  # in one process mmengine makes it plain BN

model = {
    "type": "EncoderDecoder",
    "data_preprocessor": {
        "type": "SegDataPreProcessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "size": crop_size,
        "pad_val": 0,
        "seg_pad_val": 255,
    },
    "backbone": {
        "type": "ConvViTSeg",
        "size": "base",
        "img_size": 512,
        "drop_path_rate": 0.2,
        "checkpoint_activations": False,
        "init": "",  # pretrained weights of the encoder; a whole model goes into load_from
    },
    "decode_head": {
        "type": "UPerHead",
        "in_channels": [256, 384, 768, 768],
        "in_index": [0, 1, 2, 3],
        "pool_scales": (1, 2, 3, 6),
        "channels": 768,
        "dropout_ratio": 0.1,
        "num_classes": 150,
        "norm_cfg": norm_cfg,
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
    },
    "auxiliary_head": {
        "type": "FCNHead",
        "in_channels": 768,
        "in_index": 2,
        "channels": 256,
        "num_convs": 1,
        "concat_input": False,
        "dropout_ratio": 0.1,
        "num_classes": 150,
        "norm_cfg": norm_cfg,
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.4},
    },
    "train_cfg": {},
    "test_cfg": {"mode": "slide", "crop_size": crop_size, "stride": (341, 341)},
}

train_pipeline = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "reduce_zero_label": True},
    {"type": "RandomResize", "scale": (2048, 512), "ratio_range": (0.5, 2.0), "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": crop_size, "cat_max_ratio": 0.75},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PhotoMetricDistortion"},
    {"type": "PackSegInputs"},
]
test_pipeline = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (2048, 512), "keep_ratio": True},
    {"type": "LoadAnnotations", "reduce_zero_label": True},  # after Resize: label maps keep their size
    {"type": "PackSegInputs"},
]
train_dataloader = {
    "batch_size": 2,  # a GPU, of 8
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": "InfiniteSampler", "shuffle": True},
    "dataset": {
        "type": "ADE20KDataset",
        "data_root": "data/ADEChallengeData2016",
        "data_prefix": {"img_path": "images/training", "seg_map_path": "annotations/training"},
        "pipeline": train_pipeline,
    },
}
val_dataloader = test_dataloader = {
    "batch_size": 1,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": "DefaultSampler", "shuffle": False},
    "dataset": {
        "type": "ADE20KDataset",
        "data_root": "data/ADEChallengeData2016",
        "data_prefix": {"img_path": "images/validation", "seg_map_path": "annotations/validation"},
        "pipeline": test_pipeline,
    },
}
val_evaluator = test_evaluator = {"type": "IoUMetric", "iou_metrics": ["mIoU"]}

optim_wrapper = {
    "type": "OptimWrapper",
    "optimizer": {"type": "AdamW", "lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.05},
    "constructor": "ConvMAEOptimWrapperConstructor",
    "paramwise_cfg": {"layer_decay": 0.75},
}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": 1500},
    {"type": "PolyLR", "eta_min": 0.0, "power": 1.0, "by_epoch": False, "begin": 1500, "end": 160_000},
]
train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 160_000, "val_interval": 16_000}
val_cfg = {"type": "ValLoop"}
test_cfg = {"type": "TestLoop"}

default_hooks = {
    "timer": {"type": "IterTimerHook"},
    "logger": {"type": "LoggerHook", "interval": 50, "log_metric_by_epoch": False},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 16_000},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "visualization": {"type": "SegVisualizationHook"},
}
env_cfg = {
    "cudnn_benchmark": True,
    "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0},
    "dist_cfg": {"backend": "nccl"},
}
vis_backends = [{"type": "LocalVisBackend"}]
visualizer = {"type": "SegLocalVisualizer", "vis_backends": vis_backends, "name": "visualizer"}
log_processor = {"by_epoch": False}
log_level = "INFO"
load_from = None
resume = False
