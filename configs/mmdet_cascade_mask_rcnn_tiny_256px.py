"""Cascade Mask R-CNN at the sizes of mmdet_mask_rcnn_tiny_256px.py, for mmdet's own tools.

A step of 4 pictures takes about three seconds on one core.
"""

_base_ = "mmdet_mask_rcnn_tiny_256px.py"

import convmae.configs.mmdet_cascade_mask_rcnn_convmae_25e as cascade  # noqa: E402  (mmengine wants to read _base_ first)
import convmae.configs.mmdet_mask_rcnn_tiny_256px as tiny  # noqa: E402

heads = [{**head, **tiny.bbox_head} for head in cascade.heads]
learnt = [{**stage, "sampler": {**cascade.sampler, "num": 64}} for stage in cascade.learnt]

model = {
    "type": "CascadeRCNN",
    "roi_head": {
        "type": "CascadeRoIHead",
        "num_stages": len(heads),
        "stage_loss_weights": [1, 0.5, 0.25],
        "bbox_head": heads,
    },
    "train_cfg": {"rcnn": learnt},
}
