"""DINO (arXiv 2203.03605) for mmdet's own tools: mmdet's own head of four scales on E2, E3 and E4 of ConvMAE-Base.

Data and schedule are those of mmdet_mask_rcnn_convmae_25e.py. Neither published with this encoder nor trained at this
size here.
"""

_base_ = "mmdet_mask_rcnn_convmae_25e.py"

from mmengine.hub import get_config  # noqa: E402  (mmengine wants to read _base_ first)

import convmae.configs.mmdet_mask_rcnn_convmae_25e as shared  # noqa: E402

model = get_config("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py").model.to_dict()
model["_delete_"] = True  # nothing of Mask R-CNN's
model["data_preprocessor"], model["backbone"] = shared.model["data_preprocessor"], shared.model["backbone"]
model["data_preprocessor"] = {**model["data_preprocessor"], "pad_mask": False}
model["backbone"] = {**model["backbone"], "out_indices": (1, 2, 3)}
model["neck"]["in_channels"] = shared.widths[1:]

annotations = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": False}  # the data may have no masks
train_pipeline = [shared.train_pipeline[0], annotations, *shared.train_pipeline[2:]]
test_pipeline = [*shared.test_pipeline[:2], annotations, shared.test_pipeline[3]]
train_dataloader = {"dataset": {"pipeline": train_pipeline}}
val_dataloader = test_dataloader = {"dataset": {"pipeline": test_pipeline}}
val_evaluator = test_evaluator = {"metric": "bbox"}

optim_wrapper = {
    "optimizer": {"lr": 1e-4, "weight_decay": 1e-4},
    "paramwise_cfg": {"layer_decay": 0.8, "decay_biases": False},
    "clip_grad": {"max_norm": 0.1, "norm_type": 2},
}
