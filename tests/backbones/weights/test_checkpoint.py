"""Weights find their places, and the report names every key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_states import DIMS, State, classifier, plain_vit, prefixed, random_state, same
from torch import Tensor

from convmae.backbones import ConvViT, ConvViTDet, ConvViTSeg, load_checkpoint
from convmae.backbones.weights.checkpoint import CheckpointError, best_prefix
from convmae.pretraining import ConvMAE

LAYOUTS: dict[str, Callable[[State], object]] = {
    "plain": lambda state: state,
    "pretraining or fine-tuning": lambda state: {"model": state, "epoch": 3},
    "distributed": lambda state: {"model": prefixed(state, "module.")},
    "EasyCV": lambda state: {"meta": {}, "state_dict": prefixed(state, "backbone.") | {"neck.x": torch.zeros(2)}},
    "detectron2": lambda state: {"model": prefixed(state, "backbone.bottom_up.") | {"roi_heads.x": torch.zeros(2)}},
    "detectron2 arrays": lambda state: {
        "model": {name: value.numpy() for name, value in prefixed(state, "backbone.bottom_up.").items()}
    },
    "ViTDet port": lambda state: {"model": prefixed(state, "backbone.net.")},
    "mmseg": lambda state: {"meta": {}, "state_dict": prefixed(state, "backbone.") | {"decode_head.x": torch.zeros(2)}},
    "encoder": lambda state: prefixed(state, "encoder."),
    "ours": lambda state: {"state_dict": prefixed(state, "model.backbone.")},
    "compiled": lambda state: {"state_dict": prefixed(state, "model._orig_mod.")},
    "several wrappers": lambda state: {"model": prefixed(state, "module.model.backbone.")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_fills_the_model(layout: str, tmp_path: Path) -> None:
    model = classifier()
    state = random_state(model)
    content = LAYOUTS[layout](state)
    torch.save(content, tmp_path / "weights.pth")
    report = load_checkpoint(model, tmp_path / "weights.pth")
    assert same(model, state)
    assert not report.missing
    assert all(name.endswith(".x") for name in report.unexpected)
    assert not report.resized
    assert not report.converted
    assert str(tmp_path / "weights.pth") in report.source
    assert report.loaded == report.total == len(state)


def test_reads_safetensors_and_state_dicts(tmp_path: Path) -> None:
    state = random_state(classifier())
    save_file(state, tmp_path / "weights.safetensors")
    for source in (tmp_path / "weights.safetensors", str(tmp_path / "weights.safetensors"), state, {"model": state}):
        model = classifier()
        assert not load_checkpoint(model, source).missing
        assert same(model, state)


def test_easycv_keeps_the_decoder_elsewhere() -> None:
    model = ConvMAE(DIMS, img_size=64, decoder_dim=16, decoder_depth=1, decoder_heads=2)
    state = random_state(model)
    decoder = ("decoder_", "mask_token")
    content = {f"{'neck' if name.startswith(decoder) else 'backbone'}.{name}": value for name, value in state.items()}
    report = load_checkpoint(model, {"state_dict": content}, strict=True)
    assert same(model, state)
    assert "prefix 'backbone.'" in report.source


def test_the_prefix_is_the_one_that_fits_most() -> None:
    targets = ["pos_embed", "norm.weight", "blocks.0.norm.weight"]
    assert best_prefix(["pos_embed", "norm.weight"], targets) == ""
    assert best_prefix(["a.b.pos_embed", "a.b.norm.weight", "head.norm.weight"], targets) == "a.b."
    assert best_prefix(["x", "y"], targets) == ""


def test_of_two_models_under_one_key_the_other_is_named() -> None:
    state = random_state(classifier())
    model = classifier()
    report = load_checkpoint(
        model, {"state_dict": prefixed(state, "student.") | prefixed(random_state(model, 2), "teacher.")}
    )
    assert same(model, state)
    assert report.source.endswith("prefix 'student.', not 'teacher.', which fits as well")


def test_names_that_are_left_out_keep_their_values() -> None:
    model, state = classifier(), random_state(classifier())
    before = model.head.weight.clone()
    report = load_checkpoint(model, prefixed(state, "model."), left_out={"head.": "of other classes"})
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.fc_norm.weight, state["fc_norm.weight"])
    assert report.missing == ["head.weight", "head.bias"]
    assert "head.weight (of other classes)" in str(report)


def bicubic(table: Tensor, old: int, new: tuple[int, int]) -> Tensor:
    image = table.view(1, old, old, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, new, mode="bicubic", align_corners=False, antialias=False)
    return image.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_positions_are_resampled_in_fp32(dtype: torch.dtype) -> None:
    state = random_state(classifier(64))
    state["pos_embed"] = state["pos_embed"].to(dtype)
    model = ConvViT(DIMS, num_classes=5, img_size=(96, 48))
    report = load_checkpoint(model, state)
    assert report.resized == ["pos_embed"]
    assert "4x4 -> 6x3 grid" in str(report)
    assert torch.equal(model.pos_embed, bicubic(state["pos_embed"].float(), 4, (6, 3)))


@pytest.mark.parametrize("img_size", [64, 96])
def test_a_class_tokens_row_is_cut_off(img_size: int) -> None:
    state = random_state(classifier(64))
    state["cls_token"] = torch.zeros(1, 1, 16)
    grid = state["pos_embed"]
    state["pos_embed"] = torch.cat([torch.full((1, 1, 16), 9.0), grid], dim=1)
    model = classifier(img_size)
    report = load_checkpoint(model, state)
    assert report.unexpected == ["cls_token"]
    assert "the class token's row cut off" in report.notes["pos_embed"]
    side = img_size // 16
    assert (report.converted, report.resized)[img_size == 96] == ["pos_embed"]
    assert torch.equal(model.pos_embed, bicubic(grid, 4, (side, side)) if side != 4 else grid)


def test_a_v2_file_with_a_class_token_builds_its_encoder(tmp_path: Path) -> None:
    state = random_state(classifier(96))
    grid = state["pos_embed"]
    class_token = {
        "cls_token": torch.ones(1, 1, 16),
        "pos_embed": torch.cat([torch.full((1, 1, 16), 9.0), grid], dim=1),
    }
    torch.save({"model": state | class_token}, tmp_path / "v2.pth")
    model = ConvViT.from_checkpoint(tmp_path / "v2.pth")
    assert model.grid_size == (6, 6)
    assert same(model, state)
    assert model.load_report.unexpected == ["cls_token"]
    assert not model.load_report.missing


def test_bias_tables_keep_central_offsets_or_grow() -> None:
    detector = ConvViTDet(DIMS, img_size=64, window_size=3)
    state = random_state(detector)
    smaller = ConvViTDet(DIMS, img_size=64, window_size=2)
    report = load_checkpoint(smaller, state)
    name = "windowed_rel_pos_bias.relative_position_bias_table"
    assert report.resized == [name]
    assert torch.equal(smaller.state_dict()[name].view(3, 3, 2), state[name].view(5, 5, 2)[1:-1, 1:-1])

    larger = ConvViTDet(DIMS, img_size=64, window_size=4)
    assert load_checkpoint(larger, state).resized == [name]
    assert torch.allclose(larger.state_dict()[name], bicubic(state[name][None], 5, (7, 7))[0])


def test_index_buffers_and_what_is_no_weight_are_ignored() -> None:
    model = ConvViTSeg(DIMS, img_size=64)
    state = random_state(model)
    buffers = {f"blocks3.{block}.attn.relative_position_index": torch.zeros(16, 16) for block in range(3)}
    others = {**buffers, "_extra_state": torch.zeros(7, dtype=torch.uint8)}
    report = load_checkpoint(model, state | others, strict=True)
    assert report.ignored == list(others)
    assert not report.unexpected


def test_separate_projections_are_fused() -> None:
    model = classifier()
    state = random_state(model)
    separate = dict(state)
    for block in range(3):
        attention = f"blocks3.{block}.attn."
        query, key, value = separate.pop(f"{attention}qkv.weight").chunk(3)
        separate |= {f"{attention}q.weight": query, f"{attention}k.weight": key, f"{attention}v.weight": value}
        query, _, value = separate.pop(f"{attention}qkv.bias").chunk(3)
        separate |= {f"{attention}q_bias": query, f"{attention}v_bias": value}  # BEiT's: a key's bias changes nothing
        state[f"{attention}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    report = load_checkpoint(model, prefixed(separate, "module."))
    assert same(model, state)
    assert not report.missing
    assert not report.unexpected
    assert "module.blocks3.1.attn.q_bias" in report.notes["blocks3.1.attn.qkv.bias"]
    assert len(report.converted) == 6


def test_an_incomplete_projection_is_reported() -> None:
    model = classifier()
    state = random_state(model)
    state["blocks3.0.attn.q.weight"] = state.pop("blocks3.0.attn.qkv.weight")[:16]
    report = load_checkpoint(model, state)
    assert report.missing == ["blocks3.0.attn.qkv.weight"]
    assert report.unexpected == ["blocks3.0.attn.q.weight"]


def test_linear_layers_become_1x1_convolutions() -> None:
    model = classifier()
    state = random_state(model)
    name = "blocks1.0.conv1.weight"
    report = load_checkpoint(model, state | {name: state[name].flatten(1)})
    assert report.converted == [name]
    assert same(model, state)


def test_another_number_of_classes_is_reported_with_the_reason() -> None:
    model = classifier()
    before = model.head.weight.clone()
    state = random_state(model) | {"head.weight": torch.zeros(7, 16), "head.bias": torch.zeros(7)}
    report = load_checkpoint(model, state)
    assert report.missing == ["head.weight", "head.bias"]
    assert report.unexpected == ["head.weight", "head.bias"]
    assert "head.weight (shape [7, 16] in the file, [5, 16] in the model)" in str(report)
    assert torch.equal(model.head.weight, before)


def test_the_report_names_every_key() -> None:
    state = random_state(classifier())
    dropped = [name for name in state if name.startswith("blocks3.")]
    added = {f"decoder_blocks.{block}.norm1.weight": torch.zeros(2) for block in range(4)}
    added |= {"note": "text", "objects": np.array([{}, None], dtype=object)}
    report = load_checkpoint(classifier(), {name: v for name, v in state.items() if name not in dropped} | added)
    assert report.missing == dropped
    assert set(report.unexpected) == set(added)
    text = str(report)
    assert f"{report.loaded} of the model's {len(state)} tensors loaded" in text
    assert "decoder_blocks.{0-3}.norm1.weight" in text
    assert "blocks3.{0-2}.attn.qkv.weight" in text
    assert "note (a str, not a tensor)" in text
    assert "objects (a ndarray, not a tensor)" in text


def test_strict_wants_an_exact_match_and_leaves_the_model_alone() -> None:
    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = random_state(model)
    load_checkpoint(classifier(), state, strict=True)
    for changed in (
        state | {"extra": torch.zeros(1)},
        {k: v for k, v in state.items() if k != "norm.weight"} | {"x": state["pos_embed"]},
    ):
        with pytest.raises(CheckpointError, match="don't match ConvViT exactly"):
            load_checkpoint(model, changed, strict=True)
    assert same(model, before)


@pytest.mark.parametrize("other", [{"conv1.weight": torch.zeros(2, 2)}, plain_vit()], ids=["nothing", "plain ViT"])
def test_another_models_file_is_an_error(other: State) -> None:
    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="weights of another model") as caught:
        load_checkpoint(model, other)
    message = str(caught.value)
    assert f"of its {len(other)} tensors fit ConvViT" in message
    assert next(iter(other)) in message
    assert "expected pos_embed" in message
    assert same(model, before)


def test_another_size_is_an_error_that_says_so() -> None:
    with pytest.raises(CheckpointError, match=r"0 of its \d+ tensors fit ConvViT \(pos_embed: shape"):
        load_checkpoint(ConvViT("tiny", img_size=64), classifier().state_dict())


def test_a_few_tensors_alone_are_loaded() -> None:
    model = classifier()
    report = load_checkpoint(model, {"pos_embed": np.zeros((1, 16, 16), np.float32)})
    assert report.loaded == 1
    assert (model.pos_embed == 0).all()
