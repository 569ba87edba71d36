"""The published models on a device: seeded weights in, the published outputs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convmae.backbones import ConvViT, ConvViTDet, ConvViTSeg
from convmae.benchmarks.gpu.agreement.deviation import DTYPES, LIMIT, Check, Deviation, exact_fp32, relative
from convmae.benchmarks.gpu.agreement.reference import (
    OWN_VALUES,
    difference,
    image,
    read_reference,
    seeded_model,
    seeded_state,
)
from convmae.benchmarks.gpu.battery import Setting
from convmae.engine.errors import UserError
from convmae.engine.machine.precision import autocast
from convmae.pretraining import METHODS

Outputs = dict[str, NDArray[Any]]

# Of the layers that give the output, as the reference was made.
GAINS = {"cls_score": 4, "objectness_logits": 4, "bbox_pred": 1, "anchor_deltas": 0.5, "predictor": 2}
HEADS_ALLOWED = 1e-3  # of the largest, behind pyramids and heads in fp32


def _in_both(
    build: Callable[[dict[str, list[int]], Outputs], nn.Module],
    compare: Callable[[Any, Outputs, str, torch.device], Iterator[Deviation]],
    name: str,
    setting: Setting,
) -> Iterator[Deviation]:
    """Yields what ``compare`` finds of the model that ``build`` makes, in fp32 and bf16."""
    if setting.fixtures is None:
        raise UserError("There is no folder of the published outputs; expected tests/data, or another by --fixtures.")
    keys, outputs = read_reference(setting.fixtures, name)
    model = build(keys, outputs).to(setting.device)
    # On most CPUs bf16 takes minutes.
    for precision in ("fp32",) if setting.device.type == "cpu" else DTYPES:
        with exact_fp32(), autocast(setting.device, DTYPES[precision]):
            yield from compare(model, outputs, precision, setting.device)


def _judge(
    what: str, output: Tensor, wanted: NDArray[Any], precision: str, of_largest: float | None = None
) -> Deviation:
    """In fp32 the largest difference against the tests' own tolerance, in bf16 the relative one."""
    if precision == "bf16":
        return Deviation(f"{what}, bf16", relative(output, torch.from_numpy(wanted).double()), LIMIT["bf16"])
    found, allowed = difference(output.detach().float().cpu(), wanted)
    return Deviation(
        f"{what}, fp32", found, allowed if of_largest is None else of_largest * float(np.abs(wanted).max())
    )


def _autoencoder(name: str, keys: dict[str, list[int]], outputs: Outputs) -> nn.Module:
    model = METHODS[name]("base", norm_pix_loss=bool(outputs["norm_pix"])).eval()
    own = (*OWN_VALUES, "pos_embed")
    model.load_state_dict(seeded_state(keys, int(outputs["weight_seed"]), own_values=own), strict=False)
    return model


def _reconstructs(model: Any, outputs: Outputs, precision: str, device: torch.device) -> Iterator[Deviation]:
    model.zero_grad()
    images, noise = image(int(outputs["image_seed"]), 2, 224).to(device), torch.from_numpy(outputs["noise"]).to(device)
    out = model(images, 0.75, noise)
    yield Deviation(f"mask, {precision}", float((out.mask.cpu().numpy() != outputs["mask"]).sum()), 0.0)
    loss, wanted = out.loss.item(), float(outputs["loss"])
    yield Deviation(f"loss, {precision}", abs(loss - wanted), 1e-5 if precision == "fp32" else LIMIT["bf16"] * wanted)
    yield _judge("prediction", out.pred[:, ::14, ::32], outputs["pred"], precision)
    with torch.autocast(device.type, enabled=False):
        out.loss.backward()
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
    pairs = zip(outputs["grad_names"], outputs["grad_norms"], strict=True)
    off = [abs(norms[key] - norm) / norm for key, norm in pairs if norm >= 1e-5]
    # The norms of small gradients are sums of errors in bf16, so their median.
    worst = max(off) if precision == "fp32" else float(np.median(off))
    yield Deviation(f"gradient norms, {precision}", worst, 1e-3 if precision == "fp32" else LIMIT["bf16"])


def _encoder(model: nn.Module, keys: dict[str, list[int]], outputs: Outputs) -> nn.Module:
    # What is no weight (an index, a counter) keeps its own value.
    model.load_state_dict(seeded_state(keys, int(outputs["weight_seed"])), strict=False)
    return model.eval()


@torch.inference_mode()
def _classifies(model: Any, outputs: Outputs, precision: str, device: torch.device) -> Iterator[Deviation]:
    yield _judge("logits", model(image(int(outputs["image_seed"]), 2, 224).to(device)), outputs["logits"], precision)


@torch.inference_mode()
def _maps(pixels: int, model: Any, outputs: Outputs, precision: str, device: torch.device) -> Iterator[Deviation]:
    for number, stage in enumerate(model(image(int(outputs["image_seed"]), 1, pixels).to(device)), start=1):
        step = max(1, stage.shape[-1] // 16)
        yield _judge(f"E{number}", stage[:, ::16, ::step, ::step], outputs[f"E{number}"], precision)


def _detector(keys: dict[str, list[int]], outputs: Outputs) -> nn.Module:
    from convmae.detection.config import ModelOptions
    from convmae.detection.model.mask_rcnn import MaskRCNN
    from convmae.detection.model.weights import from_detectron2

    model = MaskRCNN(ModelOptions(window_size=16, norm="bn"), classes=80, img_size=1024)
    state = seeded_model(keys, int(outputs["weight_seed"]), "backbone.bottom_up.", GAINS)
    model.load_state_dict(from_detectron2(state), strict=False)
    return model.eval()


@torch.inference_mode()
def _detects(model: Any, outputs: Outputs, precision: str, device: torch.device) -> Iterator[Deviation]:
    pyramid = model.features(image(int(outputs["image_seed"]), 1, 1024).to(device))
    for name, found in (("p2", pyramid[0][:, ::16, ::16, ::16]), ("p5", pyramid[3][:, ::16, ::2, ::2])):
        yield _judge(name, found, outputs[name], precision, HEADS_ALLOWED)
    boxes, heads = torch.from_numpy(outputs["given_boxes"]).to(device), model.roi_heads
    logits, deltas = heads.box_outputs(pyramid[:4], [boxes])
    masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(pyramid[:4], [boxes]))).sigmoid()
    for name, found in (
        ("given_scores", logits.softmax(-1)),
        ("given_deltas", deltas[:, ::20]),
        ("given_masks", masks[:, ::16, ::4, ::4]),
    ):
        yield _judge(name, found, outputs[name], precision, HEADS_ALLOWED)
    if precision == "fp32":
        yield from _detections(model, pyramid, outputs)


def _detections(model: Any, pyramid: list[Tensor], outputs: Outputs) -> Iterator[Deviation]:
    """How many of the published 150 proposals and 100 detections are missed; three of either may be."""
    size = [(1024, 1024)]
    proposals, _ = model.rpn(pyramid, size)
    (found,), _ = model.roi_heads(pyramid[:4], proposals, size)
    expected = torch.from_numpy(outputs["proposals"])
    nearest = (expected[:, None] - proposals[0][:150].cpu()[None]).abs().amax(-1).amin(1)
    yield Deviation("proposals missed, fp32", float((nearest > 0.1).sum()), len(expected) - 97)
    found = {name: value.cpu() for name, value in found.items()}
    boxes, scores, classes = (torch.from_numpy(outputs[name]) for name in ("boxes", "scores", "classes"))
    close = (boxes[:, None] - found["boxes"][None]).abs().amax(-1) <= 0.1
    close &= (scores[:, None] - found["scores"][None]).abs() <= 1e-3
    close &= classes[:, None] == found["labels"][None]
    yield Deviation("detections missed, fp32", float((~close.any(1)).sum()), len(boxes) - 97)


def _segmenter(keys: dict[str, list[int]], outputs: Outputs) -> nn.Module:
    from convmae.engine.config import load_config
    from convmae.segmentation.config import SegmentationConfig
    from convmae.segmentation.model.upernet import build_model

    model = build_model(load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml"), 150)
    state = seeded_model(keys, int(outputs["weight_seed"]), "backbone.", {"conv_seg": 1})
    model.load_state_dict(state, strict=False)
    return model.eval()


@torch.inference_mode()
def _labels(model: Any, outputs: Outputs, precision: str, device: torch.device) -> Iterator[Deviation]:
    maps = model.backbone(image(int(outputs["image_seed"]), 1, 512).to(device))
    logits, aux = model.decode_head(maps), model.auxiliary_head(maps)
    yield _judge("logits", logits[:, ::10, ::8, ::8], outputs["logits"], precision, HEADS_ALLOWED)
    yield _judge("auxiliary logits", aux[:, ::10, ::4, ::4], outputs["aux"], precision, HEADS_ALLOWED)
    differing = (logits.argmax(1)[0, ::2, ::2].cpu().numpy() != outputs["argmax"]).mean()
    yield Deviation(f"label map, {precision}", float(differing), 1e-3 if precision == "fp32" else LIMIT["bf16"])


FIXTURES: dict[str, Check] = {
    "convmae": partial(_in_both, partial(_autoencoder, "convmae"), _reconstructs, "convmae"),
    "fastconvmae": partial(_in_both, partial(_autoencoder, "fastconvmae"), _reconstructs, "fastconvmae"),
    "classifier": partial(
        _in_both, lambda *found: _encoder(ConvViT("base", 1000, 224), *found), _classifies, "classifier"
    ),
    "detection encoder": partial(
        _in_both,
        lambda *found: _encoder(ConvViTDet("base", 1024, 16, (0, 3, 6, 10)), *found),
        partial(_maps, 1024),
        "detection",
    ),
    "segmentation encoder": partial(
        _in_both, lambda *found: _encoder(ConvViTSeg("base", 512), *found), partial(_maps, 512), "segmentation"
    ),
    "Mask R-CNN": partial(_in_both, _detector, _detects, "mask_rcnn"),
    "UPerNet": partial(_in_both, _segmenter, _labels, "upernet"),
}
