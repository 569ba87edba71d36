"""The baseline MAE: a plain ViT as timm has it, on what is visible, with the public parameter names."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

from convmae.backbones import ViT, load_checkpoint
from convmae.backbones.masked import VisiblePatches
from convmae.pretraining import MAE
from convmae.pretraining.patches import patchify

DIMS = {"embed_dim": 24, "depth": 3, "num_heads": 2}
SMALL = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}


def small(img_size: int = 64) -> MAE:
    torch.manual_seed(0)
    model = MAE(DIMS, img_size, **SMALL).double().eval()
    torch.nn.init.normal_(model.cls_token)
    return model


def timms(model: MAE) -> timm.models.VisionTransformer:
    """The same encoder in timm's code."""
    options = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0}
    other = timm.models.VisionTransformer(**options).double().eval()
    other.load_state_dict({name: model.state_dict()[name] for name in other.state_dict()})
    return other


def test_the_encoder_equals_timms() -> None:
    model, images = small(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = timms(model).forward_features(images)[:, 1:]
    assert torch.allclose(model.encode_whole(images), expected, atol=1e-12)


def test_visible_tokens_equal_timms_blocks_on_them() -> None:
    model, images = small(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    other = timms(model)
    ids = torch.stack([torch.randperm(16)[:5] for _ in range(2)])
    x = other.patch_embed(images) + other.pos_embed[:, 1:]
    x = x.gather(1, ids[..., None].expand(-1, -1, 24))
    x = torch.cat([(other.cls_token + other.pos_embed[:, :1]).expand(2, -1, -1), x], dim=1)
    expected = other.norm(other.blocks(x))
    found = model.forward_encoder(images, VisiblePatches([ids], 2, (4, 4)))
    assert torch.allclose(found[:10].view(2, 5, 24), expected[:, 1:], atol=1e-12)
    assert torch.allclose(found[10:], expected[:, 0], atol=1e-12)


def test_the_decoder_equals_timms_blocks_with_mask_tokens() -> None:
    """MAE's decoder, written out: mask tokens in their places, the class token first, and not predicted from."""
    model, images = small(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    noise = torch.rand(2, 16)
    out = model(images, 0.75, noise)
    ids = noise.argsort(1)[:, :4]
    encoded = model.forward_encoder(images, VisiblePatches([ids], 2, (4, 4)))
    rows = model.decoder_embed(encoded)
    x = model.mask_token.expand(2, 17, -1).clone()
    for image in range(2):
        x[image, 0] = rows[8 + image]
        for place, token in enumerate(ids[image]):
            x[image, 1 + token] = rows[4 * image + place]
    x = x + model.decoder_pos_embed
    for number in range(2):
        block = (
            timm.models.vision_transformer.Block(16, 2, qkv_bias=True, norm_layer=torch.nn.LayerNorm).double().eval()
        )
        block.norm1.eps = block.norm2.eps = 1e-6
        block.load_state_dict(model.decoder_blocks[number].state_dict())
        x = block(x)
    expected = model.decoder_pred(model.decoder_norm(x))[:, 1:]
    assert torch.allclose(out.pred, expected, atol=1e-12)
    target = patchify(images)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    assert torch.allclose(out.loss, ((expected - target) ** 2)[out.mask.bool()].mean())


def test_names_and_shapes_are_the_public_ones() -> None:
    keys = {name: list(value.shape) for name, value in MAE("base").state_dict().items()}
    assert len(keys) == 4 + 12 * 12 + 2 + 4 + 8 * 12 + 4
    assert keys["cls_token"] == [1, 1, 768]
    assert keys["pos_embed"] == [1, 197, 768]
    assert keys["patch_embed.proj.weight"] == [768, 3, 16, 16]
    assert keys["blocks.11.attn.qkv.weight"] == [2304, 768]
    assert keys["decoder_pos_embed"] == [1, 197, 512]
    assert keys["decoder_blocks.7.mlp.fc2.weight"] == [512, 2048]
    assert keys["decoder_pred.weight"] == [768, 512]


@pytest.mark.parametrize(("height", "width"), [(48, 80), (40, 70)])
def test_any_size(height: int, width: int) -> None:
    out = small()(torch.randn(1, 3, height, width, dtype=torch.float64), 0.5)
    assert out.pred.shape == (1, 3 * 5, 768)


def test_a_classifier_takes_the_weights_at_another_size() -> None:
    model = small()
    classifier = ViT(DIMS, num_classes=3, img_size=96)
    report = load_checkpoint(classifier, model.float().state_dict())
    assert report.resized == ["pos_embed"]
    assert sorted(report.missing) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    assert torch.equal(classifier.pos_embed[:, :1], model.pos_embed[:, :1])
    assert classifier(torch.randn(2, 3, 96, 96)).shape == (2, 3)


def test_dims_are_read_from_a_file(tmp_path) -> None:
    model = small().float()
    torch.save({"model": model.state_dict()}, tmp_path / "mae.pth")
    for kind in (MAE, ViT):
        again = kind.from_checkpoint(tmp_path / "mae.pth")
        assert (again.dims.embed_dim, again.dims.depth, again.dims.mlp_ratio) == (24, 3, 4)
    assert MAE.from_checkpoint(tmp_path / "mae.pth", strict=True).decoder_dims[:2] == (16, 2)


def test_the_classifier_equals_timms_with_mean_pooling() -> None:
    torch.manual_seed(0)
    model = ViT(DIMS, num_classes=5, img_size=64).double().eval()
    options = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
    other = timm.models.VisionTransformer(**options, global_pool="avg").double().eval()
    other.load_state_dict(model.state_dict())
    images: Tensor = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert torch.allclose(model(images), other(images), atol=1e-12)
