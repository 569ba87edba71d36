"""Mask2Former (arXiv 2112.01527) for mmdet's own tools: mmdet's own head for COCO's objects on E1..E4 of ConvMAE-Base.

Data and schedule are those of mmdet_mask_rcnn_convmae_25e.py. Neither published with this encoder nor trained at this
size here.
"""

_base_ = "mmdet_mask_rcnn_convmae_25e.py"

from mmengine.hub import get_config  # noqa: E402  (mmengine wants to read _base_ first)

import convmae.configs.mmdet_mask_rcnn_convmae_25e as shared  # noqa: E402

model = get_config("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py").model.to_dict()
model["_delete_"] = True  # nothing of Mask R-CNN's
model["data_preprocessor"], model["backbone"] = shared.model["data_preprocessor"], shared.model["backbone"]
model["panoptic_head"]["in_channels"] = shared.widths

optim_wrapper = {
    "optimizer": {"lr": 1e-4, "weight_decay": 0.05},
    "paramwise_cfg": {"layer_decay": 0.8, "decay_biases": False},
    "clip_grad": {"max_norm": 0.01, "norm_type": 2},
}
