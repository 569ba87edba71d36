"""Parameter groups: decay and layers, against METHOD's rules for this encoder."""

import pytest
import torch
from torch import nn

from convmae.backbones import ConvViT
from convmae.engine.options import DataOptions, OptimOptions
from convmae.engine.training.optim import build_optim_wrapper, param_groups, scaled_lr

CPU = torch.device("cpu")
DIMS = {"embed_dims": (16, 16, 32), "depths": (1, 1, 3), "num_heads": 2}


class Task(nn.Module):
    """An encoder inside a task, with a neck beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ConvViT(DIMS, num_classes=5, img_size=32)
        self.neck = nn.Linear(32, 4)


def by_name(groups: list) -> dict:
    return {name: group for group in groups for name in group["names"]}


def test_every_trainable_parameter_is_in_one_group() -> None:
    model = Task()
    model.backbone.pos_embed.requires_grad_(False)
    groups = param_groups(model, OptimOptions(layer_decay=0.5))
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_vectors_and_positions_are_not_decayed() -> None:
    groups = by_name(param_groups(Task(), OptimOptions(weight_decay=0.1)))
    assert groups["backbone.pos_embed"]["weight_decay"] == 0
    assert groups["backbone.blocks3.0.norm1.weight"]["weight_decay"] == 0
    assert groups["neck.bias"]["weight_decay"] == 0
    assert groups["backbone.blocks1.0.attn.weight"]["weight_decay"] == 0.1


def test_biases_are_decayed_on_request_beside_a_decayed_weight_only() -> None:
    groups = by_name(param_groups(Task(), OptimOptions(weight_decay=0.1, decay_biases=True)))
    found = {name: group["weight_decay"] for name, group in groups.items()}
    for name in ("neck.bias", "backbone.blocks1.0.conv1.bias", "backbone.blocks3.1.mlp.fc2.bias", "neck.weight"):
        assert found[name] == 0.1
    for name in ("backbone.pos_embed", "backbone.blocks3.0.norm1.bias", "backbone.patch_embed1.norm.weight"):
        assert found[name] == 0


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("pos_embed", 0),
        ("patch_embed4.weight", 0),
        ("blocks1.0.conv1.weight", 0),
        ("blocks2.0.mlp.fc1.weight", 0),
        ("blocks3.0.attn.qkv.weight", 1),
        ("blocks3.2.attn.qkv.weight", 3),
        ("fc_norm.weight", 4),
        ("head.weight", 4),
    ],
)
def test_layers_decay_from_the_head_down(name: str, layer: int) -> None:
    groups = by_name(param_groups(Task(), OptimOptions(layer_decay=0.5)))
    assert groups[f"backbone.{name}"]["lr_scale"] == pytest.approx(0.5 ** (4 - layer))
    assert groups["neck.weight"]["lr_scale"] == 1


def test_the_learning_rate_follows_the_batch_if_the_recipe_names_one() -> None:
    assert scaled_lr(OptimOptions(lr=1e-4, lr_batch=256), DataOptions(batch_size=1024)) == pytest.approx(4e-4)
    assert scaled_lr(OptimOptions(lr=1e-4), DataOptions(batch_size=1024)) == pytest.approx(1e-4)


def test_the_wrapper_clips_and_scales_each_group() -> None:
    model = nn.Linear(2, 1, bias=False)
    options = OptimOptions(lr=0.5, clip_grad=1.0)
    groups = [{"params": [model.weight], "lr_scale": 0.1}]
    wrapper = build_optim_wrapper(groups, options, DataOptions(), torch.device("cpu"), None)
    assert wrapper.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert wrapper.clip_grad_kwargs == {"max_norm": 1.0}


def test_scaled_losses_step_as_unscaled_and_a_skipped_step_halves_the_scale() -> None:
    wrappers = []
    for dtype in (None, torch.float16):
        model = nn.Linear(2, 1, bias=False)
        nn.init.constant_(model.weight, 0.25)
        options = OptimOptions(lr=0.1, clip_grad=0.5)
        groups = [{"params": [model.weight]}]
        wrappers.append((model, build_optim_wrapper(groups, options, DataOptions(), torch.device("cpu"), dtype)))
    for model, wrapper in wrappers:
        wrapper.update_params(model(torch.tensor([[1.0, 2.0]])).square().sum())
        assert not wrapper.skipped
    (plain, _), (scaled, wrapper) = wrappers
    torch.testing.assert_close(scaled.weight, plain.weight)
    before, scale = scaled.weight.detach().clone(), wrapper.scaler.get_scale()
    wrapper.update_params((scaled.weight * float("inf")).sum())
    assert wrapper.skipped
    assert torch.equal(scaled.weight, before)
    assert wrapper.scaler.get_scale() == scale / 2
    again = build_optim_wrapper([{"params": [scaled.weight]}], OptimOptions(), DataOptions(), CPU, torch.float16)
    again.load_state_dict(wrapper.state_dict())
    assert again.scaler.get_scale() == scale / 2


def test_options_of_now_outlast_those_of_a_state() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    old, new = (
        build_optim_wrapper(
            [{"params": [weight], "weight_decay": decay, "lr_scale": scale}], OptimOptions(), DataOptions(), CPU, None
        )
        for decay, scale in ((0.05, 1.0), (0.3, 0.5))
    )
    old.update_params(weight.sum())
    new.load_state_dict(old.state_dict())
    (group,) = new.optimizer.param_groups
    assert (group["weight_decay"], group["lr_scale"]) == (0.3, 0.5)
    assert new.optimizer.state[weight]["step"] == 1
