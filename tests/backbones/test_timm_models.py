"""ConvViT behaves as timm's own models do under timm's entry points."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from timm.models import FeatureInfo, save_for_hf
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from convmae.backbones import SIZES, CheckpointError, ConvViT
from convmae.pretraining import ConvMAE


def tiny(**options: Any) -> ConvViT:
    torch.manual_seed(0)
    model = timm.create_model("convvit_tiny", **{"num_classes": 10, "img_size": 64} | options)
    assert isinstance(model, ConvViT)
    return model.eval()


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def from_file(path: Path, **options: Any) -> nn.Module:
    return timm.create_model(
        "convvit_tiny", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, img_size=64, **options
    )


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A classifier's weights, its head and norm included, none of them at its initial value."""
    generator = torch.Generator().manual_seed(2)
    values = ConvViT("tiny", num_classes=10, img_size=64).state_dict()
    return {name: value + 0.02 * torch.randn(value.shape, generator=generator) for name, value in values.items()}


def encoder_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(("fc_norm.", "head."))}


def test_timm_lists_every_size() -> None:
    assert timm.list_models("convvit*") == sorted(f"convvit_{size}" for size in SIZES)
    assert timm.list_models("convvit*", pretrained=True) == []


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_the_model_of_that_name(size: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"convvit_{size}", num_classes=10, img_size=192)
        ours = ConvViT(size, num_classes=10, img_size=192)
        features = timm.create_model(f"convvit_{size}", features_only=True)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }
    assert (model.num_classes, model.num_features) == (10, SIZES[size].embed_dims[2])
    assert features.feature_info.channels() == list(SIZES[size].embed_dims)
    assert features.feature_info.reduction() == [4, 8, 16]


def test_the_default_config_names_modules_that_exist() -> None:
    model = timm.create_model("convvit_tiny")
    config = model.default_cfg
    assert config is model.pretrained_cfg
    assert isinstance(model.get_submodule(config["first_conv"]), nn.Conv2d)
    assert model.get_submodule(config["classifier"]) is model.get_classifier()
    assert model.num_classes == config["num_classes"] == 1000
    data = resolve_model_data_config(model)
    assert (data["mean"], data["std"]) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert data["input_size"] == (3, 224, 224)
    grid = tuple(side // model.feature_info[-1]["reduction"] for side in data["input_size"][1:])
    assert config["pool_size"] == grid


def test_head_and_features_are_timms() -> None:
    model = tiny()
    with torch.no_grad():
        tokens = model.forward_features(images())
        pooled = model.forward_head(tokens, pre_logits=True)
        assert torch.equal(model(images()), model.get_classifier()(pooled))
        assert pooled.shape == (2, model.num_features)

        model.reset_classifier(3)
        assert model(images()).shape == (2, 3)
        model.reset_classifier(0)
        assert torch.equal(model(images()), pooled)
        model.reset_classifier(0, "")
        unpooled = model(images())
        assert unpooled.shape == tokens.shape
        assert torch.equal(tiny(num_classes=0, global_pool="")(images()), unpooled)
    with pytest.raises(ValueError, match="expected 'avg', or '' for none"):
        model.reset_classifier(0, "token")


def test_intermediates_are_the_pyramid() -> None:
    model = tiny()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    with torch.no_grad():
        tokens, maps = model.forward_intermediates(images(80, 36))
        pyramid = model.forward_pyramid(images(80, 36))
        (last,) = model.forward_intermediates(images(80, 36), indices=1, output_fmt="NHWC", intermediates_only=True)
        assert torch.equal(tokens, model.forward_features(images(80, 36)))
    assert all(torch.equal(found, stage) for found, stage in zip(maps, pyramid, strict=True))
    assert torch.equal(last, pyramid[2].permute(0, 2, 3, 1))
    for stage, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        assert stage.shape == (2, channels, -(-80 // reduction), -(-36 // reduction))
    for options in ({"norm": True}, {"output_fmt": "NLC"}):
        with pytest.raises(ValueError, match="E1, E2, E3 are raw maps"):
            model.forward_intermediates(images(), **options)


@pytest.mark.parametrize("indices", [(0, 1, 2), (2,), (0, 1), (-1,), (-3, -2), 1, 2])
def test_feature_backbones_give_what_is_asked_for(indices: int | tuple[int, ...]) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("convvit_tiny", features_only=True, img_size=64, out_indices=indices).eval()
    torch.manual_seed(0)
    whole = timm.create_model("convvit_tiny", img_size=64).eval()
    with torch.no_grad():
        maps = backbone(images(50, 64))
        expected = whole.forward_pyramid(images(50, 64))
    chosen = range(3)[-indices:] if isinstance(indices, int) else indices
    assert len(maps) == len(chosen)
    for found, index in zip(maps, chosen, strict=True):
        torch.testing.assert_close(found, expected[index])
    assert backbone.feature_info.channels() == [stage.shape[1] for stage in maps]
    kept = [name for name, _ in backbone.model.named_parameters() if name.startswith(("blocks", "fc_norm", "head"))]
    assert {name.split(".")[0] for name in kept} == {f"blocks{1 + i}" for i in range(max(i % 3 for i in chosen) + 1)}


def test_module_names_of_the_features_are_the_stages_last_blocks() -> None:
    model, seen = tiny(), {}
    for info in model.feature_info:
        model.get_submodule(info["module"]).register_forward_hook(
            lambda _, __, output, name=info["module"]: seen.update({name: output})
        )
    with torch.no_grad():
        maps = model.forward_pyramid(images())
    for stage, info in zip(maps, model.feature_info, strict=True):
        channels_last = seen[info["module"]].flatten(1, -2)
        assert torch.equal(channels_last, stage.flatten(2).transpose(1, 2))


def test_training_options() -> None:
    model = tiny(drop_path_rate=0.3, drop_rate=0.0).train()
    assert model.blocks3[-1].drop_path.rate == pytest.approx(0.3)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(0)
        model(images()).square().sum().backward()
        gradients.append(model.patch_embed1.proj.weight.grad)
    assert model.checkpoint_activations
    torch.testing.assert_close(gradients[0], gradients[1])
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert groups[id(model.pos_embed)]["weight_decay"] == 0
    depth = len(model.blocks3)
    assert groups[id(model.patch_embed1.proj.weight)]["lr_scale"] == pytest.approx(0.5 ** (depth + 1))
    assert groups[id(model.head.weight)]["lr_scale"] == 1


def test_dropout_which_it_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="has no dropout"):
        tiny(drop_rate=0.5)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_local_file_of_rgb_weights_fills_another_number_of_channels(
    channels: int, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"model": state}, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    model = tiny(pretrained=True, pretrained_cfg_overlay=overlay, in_chans=channels)
    rgb = state["patch_embed1.proj.weight"]
    expected = rgb.sum(1, keepdim=True) if channels == 1 else rgb[:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(model.patch_embed1.proj.weight.detach(), expected)
    assert model(torch.randn(2, channels, 64, 64)).shape == (2, 10)


LAYOUTS = {
    "fine-tuned": lambda state: {"model": state, "epoch": 99, "args": argparse.Namespace(lr=1e-3)},
    "encoder": lambda state: {"model": encoder_only(state), "config": ""},
    "mmseg": lambda state: {"state_dict": {f"backbone.{k}": v for k, v in encoder_only(state).items()}},
    "distributed": lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_local_files_of_every_layout_fill_the_backbone(layout: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](state), tmp_path / "weights.pth")
    backbone = from_file(tmp_path / "weights.pth", features_only=True)
    loaded = backbone.model.state_dict()
    assert set(loaded) == set(encoder_only(state))
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)


def test_detectron2s_pickles_and_pretraining_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    arrays = {f"backbone.bottom_up.{name}": value.numpy() for name, value in encoder_only(state).items()}
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"model": arrays}))
    model = from_file(tmp_path / "weights.pkl", num_classes=10)
    assert torch.equal(model.blocks2[0].conv1.weight, state["blocks2.0.conv1.weight"])

    pretrained = ConvMAE("tiny", img_size=96)
    torch.save({"model": pretrained.state_dict()}, tmp_path / "pretrained.pth")
    model = from_file(tmp_path / "pretrained.pth", num_classes=10)
    assert torch.equal(model.blocks3[5].mlp.fc2.weight, pretrained.state_dict()["blocks3.5.mlp.fc2.weight"])
    assert model.load_report.resized == ["pos_embed"]


def test_a_head_is_loaded_where_it_fits(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": state}, tmp_path / "weights.pth")
    same, other = (from_file(tmp_path / "weights.pth", num_classes=classes) for classes in (10, 3))
    assert same.load_report.missing == []
    assert torch.equal(same.head.weight, state["head.weight"])
    assert other.load_report.missing == ["head.weight", "head.bias"]
    assert torch.equal(other.fc_norm.weight, state["fc_norm.weight"])
    assert other.head.weight.shape == (3, 256)


class Harmful:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("was_run"),)


@pytest.mark.parametrize("overlay", [{}, {"custom_load": False}])
def test_a_file_runs_no_code(overlay: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Harmful()}, "weights.pth")
    with pytest.raises(CheckpointError, match="reading it could run code"):
        timm.create_model("convvit_tiny", pretrained=True, pretrained_cfg_overlay={"file": "weights.pth"} | overlay)
    assert not Path("was_run").exists()


def test_weights_that_leave_the_encoder_unfilled_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    shallow = {name: value for name, value in state.items() if not name.startswith("blocks3.5.")}
    torch.save(shallow, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"leaves 12 of the encoder's tensors unfilled \(blocks3\.5\."):
        from_file(tmp_path / "weights.pth")


def test_no_weights_to_download() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist for convvit_tiny"):
        timm.create_model("convvit_tiny", pretrained=True)


def test_timms_own_folders_come_back(state: dict[str, Tensor], tmp_path: Path) -> None:
    model = tiny()
    model.load_state_dict(state)
    save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again(images()), model(images()))


@pytest.mark.parametrize("size", [64, 96, (32, 128)])
def test_checkpoint_path_resamples_positions_as_a_pretrained_file_does(
    size: int | tuple[int, int], state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": state, "arch": "convvit_tiny"}, tmp_path / "model.pth")
    model = tiny(img_size=size, checkpoint_path=str(tmp_path / "model.pth"))
    same = tiny(img_size=size, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "model.pth")})
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in model.state_dict().items())
    copied = pickle.loads(pickle.dumps(model))
    copied.load_state_dict(state)
    assert torch.equal(copied.pos_embed, model.pos_embed)


def test_checkpoint_path_takes_a_file_of_the_whole_model_alone(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = str(tmp_path / "model.pth")
    torch.save(encoder_only(state), path)
    with pytest.raises(RuntimeError, match="Missing key"):
        tiny(checkpoint_path=path)
    torch.save(state, path)
    with pytest.raises(RuntimeError, match=r"size mismatch for head\.weight"):
        tiny(num_classes=5, checkpoint_path=path)
    torch.save(state | {"head.bias": torch.full((10,), float("nan"))}, path)
    with pytest.raises(CheckpointError, match=r"head\.bias holds 10 of 10 values that are not finite"):
        tiny(checkpoint_path=path)


def test_a_key_chooses_the_average_in_a_file_of_timms(state: dict[str, Tensor], tmp_path: Path) -> None:
    average = {name: value + 1 for name, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": average}, tmp_path / "model.pth")
    overlay = {"file": f"{tmp_path / 'model.pth'}:state_dict_ema"}
    assert torch.equal(tiny(pretrained=True, pretrained_cfg_overlay=overlay).head.bias, average["head.bias"])
    assert torch.equal(from_file(tmp_path / "model.pth", num_classes=10).head.bias, state["head.bias"])
