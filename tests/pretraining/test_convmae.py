"""ConvMAE and FastConvMAE against the authors' outputs, against each other, and at sizes the authors' code has none of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import OWN_VALUES, difference, image, reference, seeded_state
from torch import Tensor

from convmae.backbones.convvit import ConvViT
from convmae.backbones.masked import VisiblePatches
from convmae.backbones.weights.checkpoint import load_checkpoint
from convmae.pretraining import ConvMAE, FastConvMAE
from convmae.pretraining.masking import complementary_masking
from convmae.pretraining.patches import patchify

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 1, 2), "num_heads": 2}
SMALL = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def small(kind: type[ConvMAE], img_size: int = 64, **options: object) -> ConvMAE:
    torch.manual_seed(0)
    return kind(DIMS, img_size=img_size, **SMALL, **options)


def gradients(model: ConvMAE) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "kind"), [("convmae", ConvMAE), ("fastconvmae", FastConvMAE)])
def test_equals_the_published_model(name: str, kind: type[ConvMAE]) -> None:
    """Measured: loss equal to the last digit or two, pred within 8e-7, gradient norms within 1.7e-4 relative."""
    keys, outputs = reference(name)
    model = kind("base", norm_pix_loss=bool(outputs["norm_pix"])).eval()
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == keys
    state = seeded_state(keys, int(outputs["weight_seed"]), own_values=(*OWN_VALUES, "pos_embed"))
    model.load_state_dict(state, strict=False)

    out = model(image(outputs["image_seed"], 2, 224), 0.75, torch.from_numpy(outputs["noise"]))
    assert (out.mask.numpy() == outputs["mask"]).all()
    assert abs(out.loss.item() - outputs["loss"]) < 1e-5
    found, expected = difference(out.pred[:, ::14, ::32], outputs["pred"])
    assert found < expected

    out.loss.backward()
    grads = {name: grad.norm().item() for name, grad in gradients(model).items()}
    assert set(grads) == set(outputs["grad_names"])
    for parameter, norm in zip(outputs["grad_names"], outputs["grad_norms"], strict=True):
        assert norm < 1e-5 or abs(grads[parameter] - norm) < 1e-3 * norm, parameter


@pytest.mark.parametrize("kind", [ConvMAE, FastConvMAE])
@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_predicting_removed_patches_alone_changes_nothing(kind: type[ConvMAE], norm_pix_loss: bool) -> None:
    model = small(kind, norm_pix_loss=norm_pix_loss).double()
    images, noise = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.rand(2, 16)
    found = {}
    for predict in ("all", "removed"):
        model.zero_grad()
        out = model(images, 0.75, noise, predict=predict)
        out.loss.backward()
        found[predict] = out, gradients(model)
    (all_out, all_grads), (out, grads) = found["all"], found["removed"]
    assert torch.allclose(out.loss, all_out.loss, rtol=1e-12)
    assert torch.allclose(out.pred, all_out.pred * out.mask[..., None], atol=1e-12)
    assert (all_out.pred[out.mask == 0] != 0).any()
    for name, grad in grads.items():
        assert torch.allclose(grad, all_grads[name], rtol=1e-9, atol=1e-12), name


def test_loss_is_the_mean_squared_error_on_removed_patches() -> None:
    model = small(ConvMAE)
    images = torch.randn(2, 3, 64, 64)
    out = model(images, 0.6)
    target = patchify(images)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    assert torch.allclose(out.loss, ((out.pred - target) ** 2)[out.mask.bool()].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "groups"), [(64, 64, 4), (64, 64, 3), (80, 48, 2), (48, 80, 5), (48, 48, 4)]
)
def test_each_group_equals_convmae_with_that_mask(height: int, width: int, groups: int) -> None:
    model = small(FastConvMAE, groups=groups).double()
    images, grid = torch.randn(2, 3, height, width, dtype=torch.float64), (height // 16, width // 16)
    noise = torch.rand(2, grid[0] * grid[1])
    together = VisiblePatches(model.masks(noise, 0.75), 2, grid)
    features = model.forward_encoder(images, together)
    out = model(images, noise=noise)
    assert len(out.mask) == groups * 2
    assert torch.equal(out.mask.view(groups, 2, -1).sum(0), torch.full((2, grid[0] * grid[1]), groups - 1.0))

    alone = small(ConvMAE).double()
    alone.load_state_dict(model.state_dict())
    start = 0
    losses = []
    for ids in (part for entry in together.keep for part in entry.split(2)):
        visible = VisiblePatches([ids], 2, grid)
        expected = alone.forward_encoder(images, visible)
        assert torch.allclose(features[start : start + ids.numel()], expected, rtol=1e-10, atol=1e-12)
        start += ids.numel()
        # The same mask from noise: kept patches first.
        order = torch.ones(2, noise.shape[1]).scatter(1, ids, 0.0)
        single = alone(images, 1 - ids.shape[1] / noise.shape[1], order)
        group = len(losses)
        assert torch.equal(single.mask, out.mask[2 * group : 2 * group + 2])
        assert torch.allclose(single.pred, out.pred[2 * group : 2 * group + 2], rtol=1e-9, atol=1e-12)
        losses.append(single.loss * single.mask.sum())
    assert start == len(features)
    assert torch.allclose(out.loss, sum(losses) / out.mask.sum(), rtol=1e-10)


@pytest.mark.parametrize("kind", [ConvMAE, FastConvMAE])
@pytest.mark.parametrize("mask_ratio", [0.3, 0.5, 0.6, 0.75, 0.9])
def test_any_ratio_and_any_size(kind: type[ConvMAE], mask_ratio: float) -> None:
    model = small(kind)
    out = model(torch.randn(2, 3, 50, 70), mask_ratio)
    assert out.pred.shape == (*out.mask.shape, 16 * 16 * 3)
    assert out.mask.shape[1] == 4 * 5  # padded to 64 x 80
    assert out.loss.isfinite()
    out.loss.backward()
    assert all(grad.isfinite().all() for grad in gradients(model).values())
    if kind is ConvMAE:
        assert ((out.mask == 0).sum(1) == int(20 * (1 - mask_ratio) + 1e-6)).all()


def test_positions_at_the_models_own_grid_are_the_stored_tables() -> None:
    model = small(ConvMAE)
    assert model.positions((4, 4)) is model.pos_embed
    assert not model.pos_embed.requires_grad
    assert not model.decoder_pos_embed.requires_grad


@pytest.mark.parametrize("kind", [ConvMAE, FastConvMAE])
def test_noise_decides_everything(kind: type[ConvMAE]) -> None:
    model = small(kind)
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    first, second = (model(images, noise=noise) for _ in range(2))
    assert torch.equal(first.pred, second.pred)
    assert not torch.equal(first.mask, model(images, noise=noise.flip(1)).mask)


def test_recomputed_activations_give_the_same_gradients() -> None:
    images, noise = torch.randn(1, 3, 64, 64), torch.rand(1, 16)
    grads = []
    for checkpoint_activations in (False, True):
        model = small(FastConvMAE, checkpoint_activations=checkpoint_activations)
        model(images, noise=noise).loss.backward()
        grads.append(gradients(model))
    for name, grad in grads[0].items():
        assert torch.equal(grad, grads[1][name]), name


def test_bf16_stays_near_fp32() -> None:
    model = small(FastConvMAE)
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    expected = model(images, noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images, noise=noise, predict="removed")
    out.loss.backward()
    assert out.loss.dtype == torch.float32
    assert abs(out.loss - expected.loss) < 0.02 * expected.loss
    assert all(grad.isfinite().all() for grad in gradients(model).values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.zeros(1, 3, 64, 64), mask_ratio=0.99), "keeps 0 of 16"),
        (lambda m: m(torch.zeros(1, 3, 64, 64), mask_ratio=0.0), "keeps 16 of 16"),
        (lambda m: m(torch.zeros(1, 3, 64, 64), noise=torch.rand(1, 9)), r"noise has shape \[1, 9\]"),
        (lambda m: m(torch.zeros(1, 3, 64, 64), predict="none"), "predict is 'none'"),
    ],
)
def test_mistakes_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(small(ConvMAE))  # type: ignore[operator]


def test_decoder_dims_are_checked() -> None:
    with pytest.raises(ValueError, match="decoder_dim is 30 with 4 heads"):
        ConvMAE(DIMS, decoder_dim=30, decoder_heads=4)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_built_from_its_own_file(size: str, tmp_path: Path) -> None:
    model = FastConvMAE(size, img_size=96)
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "a.pth"
    )
    again = FastConvMAE.from_checkpoint(tmp_path / "a.pth", groups=3)
    assert again.groups == 3
    assert not again.load_report.missing
    assert not again.load_report.unexpected
    images, noise = torch.randn(1, 3, 96, 96), torch.rand(1, 36)
    model.groups = 3
    assert torch.equal(model(images, noise=noise).pred, again(images, noise=noise).pred)


def test_pretrained_weights_fill_an_encoder() -> None:
    model = small(ConvMAE)
    encoder = ConvViT(DIMS, num_classes=3, img_size=64)
    report = load_checkpoint(encoder, model.state_dict())
    assert report.missing == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    own = ("decoder_", "mask_token", "norm.", "stage")
    assert set(report.unexpected) == {name for name in model.state_dict() if name.startswith(own)}
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(encoder.forward_features(images), ConvViT.forward_features(model, images))  # type: ignore[arg-type]


def test_groups_share_the_patches_out() -> None:
    model = small(FastConvMAE)
    sizes = [ids.shape for ids in complementary_masking(torch.rand(2, 10), 4)]
    assert sizes == [(4, 3), (4, 2)]
    assert [ids.shape for ids in model.masks(torch.rand(2, 16), 0.75)] == [(8, 4)]
