"""ConvViT: the published classifier's numbers, its names and sizes, and any image size."""

import pytest
import torch
from reference import difference, image, reference, seeded_state
from timm.models import group_parameters
from torch import nn

from convmae.backbones import SIZES, ConvViT, ConvViTDet, ConvViTSeg, Dims

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 2, 3), "num_heads": 2, "mlp_ratios": (2, 3, 4)}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_published_classifier() -> None:
    keys, outputs = reference("classifier")
    model = ConvViT("base", num_classes=1000, img_size=224).eval()
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == keys
    model.load_state_dict(seeded_state(keys, int(outputs["weight_seed"])))
    with torch.inference_mode():
        logits = model(image(outputs["image_seed"], 2, 224))
    found, allowed = difference(logits, outputs["logits"])
    assert found <= allowed


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        assert round(parameters(ConvViT("base")) / 1e6, 2) == 85.37
        encoder = parameters(ConvViT("base", num_classes=0)) - 2 * 768  # fc_norm is not the encoder's
        assert round(encoder / 1e6, 2) in (84.60, 84.61)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_the_parameters_of_its_dims(size: str) -> None:
    dims = SIZES[size]
    expected, inputs = 0, 3
    for stage, (width, depth, ratio) in enumerate(zip(dims.embed_dims, dims.depths, dims.mlp_ratios, strict=True)):
        kernel = 16 if stage == 0 else 4
        expected += inputs * kernel * width + width + 2 * width  # projection and its norm
        mlp = 2 * ratio * width * width + ratio * width + width
        mixer = 4 * (width * width + width) if stage == 2 else 2 * (width * width + width) + 26 * width
        expected += depth * (4 * width + mixer + mlp)
        inputs = width
    expected += width * width + width + 196 * width  # patch_embed4 and pos_embed
    expected += 2 * width + 10 * (width + 1)  # fc_norm and head
    with torch.device("meta"):
        assert parameters(ConvViT(size, num_classes=10)) == expected


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (1, 1), (16, 80), (100, 3)])
def test_any_image_size(height: int, width: int) -> None:
    torch.manual_seed(0)
    model = ConvViT(DIMS, num_classes=5, img_size=32).eval()
    images = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        pyramid = model.forward_pyramid(images)
        tokens = model.forward_features(images)
        assert model(images).shape == (2, 5)
    for stage, stride, channels in zip(pyramid, (4, 8, 16), (8, 12, 16), strict=True):
        assert stage.shape == (2, channels, -(-height // stride), -(-width // stride))
    assert torch.equal(tokens, pyramid[2].flatten(2).transpose(1, 2))


def test_off_the_stride_is_zero_padding_and_a_crop() -> None:
    torch.manual_seed(0)
    model = ConvViT(DIMS, img_size=48).eval()
    images = torch.randn(1, 3, 40, 21)
    padded = torch.zeros(1, 3, 48, 32)
    padded[:, :, :40, :21] = images
    with torch.inference_mode():
        ours, whole = model.forward_pyramid(images), model.forward_pyramid(padded)
    for stage, full in zip(ours, whole, strict=True):
        assert torch.equal(stage, full[..., : stage.shape[2], : stage.shape[3]])


def test_positions_follow_a_grid_that_is_not_square() -> None:
    model = ConvViT(DIMS, img_size=(32, 64))
    assert model.grid_size == (2, 4)
    assert model.pos_embed.shape == (1, 8, 16)
    assert model.positions((2, 4)) is model.pos_embed
    assert model.positions((3, 5)).shape == (1, 15, 16)


@pytest.mark.parametrize("cls", [ConvViT, ConvViTDet, ConvViTSeg])
def test_trains_in_bf16_and_reaches_every_parameter(cls: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = cls(DIMS, img_size=48).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.randn(2, 3, 80, 96))
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    sum(x.float().square().mean() for x in outputs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("cls", [ConvViT, ConvViTDet, ConvViTSeg])
def test_checkpointed_activations_change_nothing(cls: type[nn.Module]) -> None:
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = cls(DIMS, img_size=32, drop_path_rate=0.5, checkpoint_activations=checkpointed).train()
        outputs = model(torch.randn(4, 3, 48, 48))
        torch.cat([x.flatten() for x in outputs]).square().sum().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


def test_drop_path_grows_over_the_blocks_of_all_stages() -> None:
    model = ConvViT(DIMS, drop_path_rate=0.5)
    blocks = [*model.blocks1, *model.blocks2, *model.blocks3]
    rates = [getattr(block.drop_path, "rate", 0.0) for block in blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("cls", [ConvViT, ConvViTDet, ConvViTSeg])
def test_layers_for_layer_decay(cls: type[nn.Module]) -> None:
    model = cls(DIMS, img_size=32)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    for name, layer in layers.items():
        if name.startswith("blocks3"):
            assert layer == int(name.split(".")[1]) + 1, name
        elif name.startswith(("fc_norm", "head", "fpn", "windowed", "global")):
            assert layer == 4, name
        else:
            assert layer == 0, name
    undecayed = model.no_weight_decay()
    assert "pos_embed" in undecayed
    assert undecayed <= set(layers)
    assert model.pos_embed.requires_grad


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("giant", "unknown size 'giant'; expected one of tiny, small, base"),
        ({"depths": (1, 1, 1)}, "lack embed_dims"),
        ({"embed_dims": (8, 8, 8), "depths": (1, 1, 1), "heads": 2}, "unknown dims heads"),
        ({"embed_dims": (8, 8), "depths": (1, 1, 1)}, "three values in embed_dims"),
    ],
)
def test_dims_that_are_none(size: str | dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvViT(size)


def test_heads_follow_the_width() -> None:
    heads = [
        Dims.of({"embed_dims": (8, 8, width), "depths": (1, 1, 1)}).num_heads
        for width in (256, 384, 768, 1024, 1280, 512)
    ]
    assert heads == [4, 6, 12, 16, 16, 8]


def test_without_classes_it_returns_the_pooled_features() -> None:
    model = ConvViT(DIMS, num_classes=0, img_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), model.fc_norm(model.forward_features(images).mean(1)))
