"""Several targets at once: each loss is what its line in the list says, and each branch learns for itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones.masked import VisiblePatches
from convmae.pretraining import MAE, ConvMAE, FastConvMAE, MaskedAutoencoder
from convmae.pretraining.config import Target
from convmae.pretraining.reconstructors import MixtureOfReconstructors, token_spread
from convmae.pretraining.targets import check_targets
from convmae.pretraining.teachers import EmaTeacher, PixelTeacher, Teacher

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 1, 2), "num_heads": 2}
PLAIN = {"embed_dim": 16, "depth": 2, "num_heads": 2}
SMALL = {"decoder_dim": 16, "decoder_depth": 3, "decoder_heads": 2}
KINDS = [ConvMAE, FastConvMAE, MAE]


class Colours(Teacher):
    """A teacher whose values are each patch's mean colour; it counts how often it is asked."""

    dim = 3
    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return F.avg_pool2d(images, 16).flatten(2).transpose(1, 2)


def small(kind: type[MaskedAutoencoder]) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return kind(PLAIN if kind is MAE else DIMS, img_size=64, **SMALL).double()


def mixture(kind: type[MaskedAutoencoder], targets: list[Target], depth: int = 1) -> MixtureOfReconstructors:
    model = small(kind)
    teachers = {"pixels": PixelTeacher(), "ema": EmaTeacher(model), "colours": Colours()}
    named = {target.teacher for target in targets}
    return MixtureOfReconstructors(model, targets, {name: teachers[name] for name in named}, depth).double()


def inputs() -> tuple[Tensor, float, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 48, 64, dtype=torch.float64, generator=generator)
    return images, 0.75, torch.rand(2, 12, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_pixels_alone_are_the_models_own_loss(kind: type[MaskedAutoencoder], depth: int) -> None:
    alone, mixed = small(kind), mixture(kind, [Target()], depth)
    expected = alone(*inputs(), predict="removed").loss
    found = mixed(*inputs())
    assert torch.allclose(found["loss"], expected, rtol=1e-12)
    expected.backward()
    found["loss"].backward()
    for name, parameter in mixed.model.named_parameters():
        grad = dict(alone.named_parameters())[name].grad
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.allclose(parameter.grad, grad, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("kind", KINDS)
def test_each_loss_is_what_its_line_says(kind: type[MaskedAutoencoder]) -> None:
    mimic = Target("colours", tokens="visible", at="encoder", norm="none", loss="mse", weight=0.5)
    removed = Target("colours", tokens="removed", at="decoder", norm="layer", loss="smooth_l1", weight=2.0)
    shown = Target("colours", tokens="visible", at="decoder", norm="none", loss="cosine")
    mixed = mixture(kind, [Target(), mimic, removed, shown])
    images, ratio, noise = inputs()
    found = mixed(images, ratio, noise)
    model = mixed.model
    visible = model.visible_patches(images, ratio, noise)
    encoded = model.forward_encoder(images, visible)
    decoded = model.forward_decoder(encoded, visible, 2)
    views = visible.views // 2
    values = Colours()(images).repeat(views, 1, 1)  # [N, L, 3], group-major
    hidden = visible.mask.bool()

    own = mixed.branches[mimic.name]
    in_order = torch.cat([values[view][ids] for view, ids in enumerate(row for part in visible.keep for row in part)])
    assert torch.allclose(found[mimic.name], ((own(encoded[: len(in_order)]) - in_order) ** 2).mean())

    def predicted(target: Target) -> Tensor:
        branch = mixed.branches[target.name]
        return branch.pred(branch.norm(branch.blocks[0](decoded)))[:, -12:]

    wanted = (values - values.mean(-1, keepdim=True)) / (values.var(-1, keepdim=True, unbiased=False) + 1e-5) ** 0.5
    error = (predicted(removed) - wanted).abs()[hidden]
    assert torch.allclose(found[removed.name], torch.where(error < 2, error**2 / 4, error - 1).mean())
    cosine = F.cosine_similarity(predicted(shown), values, dim=-1)[~hidden]
    assert torch.allclose(found[shown.name], 1 - cosine.mean())
    parts = found["pixels_removed_decoder"] + 0.5 * found[mimic.name] + 2 * found[removed.name] + found[shown.name]
    assert torch.allclose(found["loss"], parts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_learns_for_itself_and_shares_the_rest(kind: type[MaskedAutoencoder]) -> None:
    targets = [Target(), Target("ema"), Target("colours"), Target("colours", tokens="visible", at="encoder")]
    mixed = mixture(kind, targets)
    pixels = ("model.decoder_blocks.2.", "model.decoder_norm.", "model.decoder_pred.")
    own = {target.name: (f"branches.{target.name}.",) for target in targets[1:]} | {targets[0].name: pixels}
    shared = ("model.decoder_blocks.0.", "model.decoder_blocks.1.", "model.decoder_embed.", "model.mask_token")
    for target in targets:
        mixed.zero_grad()
        mixed(*inputs())[target.name].backward()
        touched = {name for name, p in mixed.named_parameters() if p.grad is not None and (p.grad != 0).any()}
        for other, names in own.items():
            assert any(name.startswith(names) for name in touched) == (other == target.name), (target.name, other)
        assert any(name.startswith(shared) for name in touched) == (target.at == "decoder")
        assert any(name.startswith("model.blocks") for name in touched)
        assert not any(name.startswith("teachers.") for name in touched)


def test_a_teacher_sees_each_image_once_whatever_the_groups() -> None:
    targets = [Target("colours"), Target("colours", tokens="visible", at="encoder")]
    mixed = mixture(FastConvMAE, targets)
    mixed(*inputs())
    assert mixed.teachers["colours"].calls == 1


def test_what_no_target_needs_is_given_up() -> None:
    names = {name.split(".")[0] for name, _ in mixture(ConvMAE, [Target("ema")]).model.named_parameters()}
    assert "decoder_embed" in names
    assert not names & {"decoder_norm", "decoder_pred"}
    mimic = mixture(ConvMAE, [Target("colours", tokens="visible", at="encoder")])
    assert not any(name.startswith(("decoder_", "mask_token")) for name in mimic.model.state_dict())
    assert mimic(*inputs())["loss"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_that_is_trained_gets_a_gradient(kind: type[MaskedAutoencoder]) -> None:
    """Else processes would wait for gradients that never come."""
    for targets in ([Target("ema")], [Target("ema"), Target()], [Target("colours", tokens="visible", at="encoder")]):
        mixed = mixture(kind, targets)
        mixed(*inputs())["loss"].backward()
        assert all(p.grad is not None for p in mixed.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_follows_the_encoder_and_stays_in_the_state(kind: type[MaskedAutoencoder]) -> None:
    mixed = mixture(kind, [Target("ema")])
    teacher = mixed.teachers["ema"]
    assert torch.equal(teacher(inputs()[0]), mixed.model.encode_whole(inputs()[0]))
    before = {name: value.clone() for name, value in teacher.encoder.named_parameters()}
    with torch.no_grad():
        for parameter in mixed.model.parameters():
            parameter.add_(torch.randn_like(parameter))
    mixed.update_teachers(0.9)
    live = dict(mixed.model.named_parameters())
    for name, value in teacher.encoder.named_parameters():
        assert torch.allclose(value, 0.9 * before[name] + 0.1 * live[name]), name
    assert not any(p.requires_grad for p in teacher.parameters())
    assert {name for name in mixed.state_dict() if name.startswith("teachers.ema.encoder.norm")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_sees_what_an_encoder_with_all_patches_visible_does(kind: type[MaskedAutoencoder]) -> None:
    model = small(kind).eval()
    images = inputs()[0]
    everything = torch.arange(12).expand(2, -1)
    expected = model.forward_encoder(images, VisiblePatches([everything], 2, (3, 4)))[:24].view(2, 12, -1)
    assert torch.allclose(model.encode_whole(images), expected, atol=1e-10)


def test_spread_tells_a_collapse() -> None:
    generator = torch.Generator().manual_seed(0)
    assert token_spread(torch.randn(4, 16, 64, generator=generator)) > 0.9
    assert token_spread(torch.randn(1, 1, 64, generator=generator).expand(4, 16, -1)) < 1e-6


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([], "at least one"),
        ([Target("ema", at="encoder")], "visible ones alone"),
        ([Target(tokens="visible")], "whose input shows them"),
        ([Target("ema"), Target("ema", norm="none")], "two targets"),
    ],
)
def test_lists_that_can_not_be_are_refused(targets: list[Target], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_targets(targets)
    with pytest.raises(ValueError, match="branch_depth is 4"):
        mixture(ConvMAE, [Target()], depth=4)
