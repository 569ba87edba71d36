"""Cascade Mask R-CNN (arXiv 1712.00726) for mmdet's own tools: mmdet_mask_rcnn_convmae_25e.py with three box heads in a row.

Settings of the cascade are mmdet's own. Neither published with this encoder nor trained at this size here.
"""

_base_ = "mmdet_mask_rcnn_convmae_25e.py"

# Of each stage: overlap from which a box is an object's, and standard deviations of deltas.
stages = [
    (0.5, [0.1, 0.1, 0.2, 0.2]),
    (0.6, [0.05, 0.05, 0.1, 0.1]),
    (0.7, [0.033, 0.033, 0.067, 0.067]),
]

heads = [
    {
        "type": "ConvFCBBoxHead",
        "num_shared_convs": 4,
        "num_shared_fcs": 1,
        "in_channels": 256,
        "conv_out_channels": 256,
        "fc_out_channels": 1024,
        "roi_feat_size": 7,
        "num_classes": 80,
        "norm_cfg": {"type": "SyncBN", "requires_grad": True},
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": deviations},
        "reg_class_agnostic": True,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0},
    }
    for _, deviations in stages
]
sampler = {
    "type": "RandomSampler",
    "num": 512,
    "pos_fraction": 0.25,
    "neg_pos_ub": -1,
    "add_gt_as_proposals": True,
}
learnt = [
    {
        "assigner": {
            "type": "MaxIoUAssigner",
            "pos_iou_thr": overlap,
            "neg_iou_thr": overlap,
            "min_pos_iou": overlap,
            "match_low_quality": False,
            "ignore_iof_thr": -1,
        },
        "sampler": sampler,
        "mask_size": 28,
        "pos_weight": -1,
        "debug": False,
    }
    for overlap, _ in stages
]

model = {
    "type": "CascadeRCNN",
    "roi_head": {
        "type": "CascadeRoIHead",
        "num_stages": len(stages),
        "stage_loss_weights": [1, 0.5, 0.25],
        "bbox_head": heads,
    },
    "train_cfg": {"rcnn": learnt},
}
