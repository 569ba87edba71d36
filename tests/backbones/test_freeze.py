"""Frozen stems and encoders: they learn nothing, compute as in evaluation and cost no gradient, however they are run."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convmae.backbones import ConvViT, ConvViTDet, ConvViTSeg, ViT
from convmae.backbones.encoder import Encoder
from convmae.benchmarks.counting.compiled_graphs import count_graphs

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 1, 2), "num_heads": 2}
CONV_STEM = r"patch_embed[1-4]\.|blocks[12]\.|pos_embed$"
# How to make each encoder, the names of its stem, and those that tasks add.
KINDS: dict[str, tuple[Callable[..., Encoder], str, str]] = {
    "classifier": (lambda **how: ConvViT(DIMS, 5, 64, 0.5, **how), CONV_STEM, r"fc_norm\.|head\."),
    "plain classifier": (
        lambda **how: ViT({"embed_dim": 16, "depth": 3, "num_heads": 2}, 5, 64, 0.5, **how),
        r"patch_embed\.|cls_token$|pos_embed$",
        r"fc_norm\.|head\.",
    ),
    "detector's": (lambda **how: ConvViTDet(DIMS, 64, 3, (1,), 0.5, **how), CONV_STEM, "none"),
    "port's": (lambda **how: ConvViTDet(DIMS, 64, 3, (1,), 0.5, position="decomposed", **how), CONV_STEM, "none"),
    "segmenter's": (lambda **how: ConvViTSeg(DIMS, 64, 0.5, **how), CONV_STEM, r"fpn\."),
}


def make(kind: str, what: str, **how: bool) -> Encoder:
    """A frozen encoder in training, of which every weight matters."""
    torch.manual_seed(0)
    model = KINDS[kind][0](**how)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.freeze(what)
    return model.train()


def loss(model: Encoder, images: Tensor) -> Tensor:
    found = model(images)
    return sum(one.square().mean() for one in ((found,) if isinstance(found, Tensor) else found))


def is_frozen(kind: str, what: str, name: str) -> bool:
    _, stem, added = KINDS[kind]
    return bool(re.match(stem, name)) if what == "stem" else what == "encoder" and not re.match(added, name)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["none", "stem", "encoder"])
def test_steps_move_all_that_is_not_frozen_and_nothing_else(kind: str, what: str, images: Tensor) -> None:
    model = make(kind, what)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for _ in range(3) if learning else ():  # several, as paths are dropped
        loss(model, images).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == is_frozen(kind, what, name), name


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_stages_compute_as_in_evaluation_and_keep_nothing_for_a_backward_pass(kind: str, images: Tensor) -> None:
    with torch.no_grad():
        plain = make(kind, "none").eval().forward_features(images)
    model, kept = make(kind, "encoder"), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        found = model.forward_features(images)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    assert not found.requires_grad
    assert not kept


@pytest.mark.parametrize("kind", ["classifier", "detector's", "segmenter's"])
def test_a_frozen_stem_computes_as_in_evaluation_while_stage_3_drops_paths(kind: str, images: Tensor) -> None:
    with torch.no_grad():
        expected = make(kind, "none").eval().forward_pyramid(images)
    e1, e2, e3 = make(kind, "stem").forward_pyramid(images)
    torch.testing.assert_close((e1, e2), expected[:2], rtol=0, atol=1e-5)
    assert (e3 - expected[2]).abs().max() > 0.1
    assert [stage.requires_grad for stage in (e1, e2, e3)] == [False, False, True]


class BatchNormLast(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)


def test_running_statistics_of_frozen_parts_stay_put(images: Tensor) -> None:
    model = make("segmenter's", "none")
    model.patch_embed1.norm, model.blocks3[0].norm1 = BatchNormLast(8), BatchNormLast(16)
    model.freeze("stem")
    before = {name: value.clone() for name, value in model.named_buffers()}
    for mode in (True, False, True):  # as evaluations lie between steps
        model.train(mode)
        model(images)
    moved = {name for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[0] for name in moved} == {"blocks3.0.norm1", "fpn.1"}
    assert all(not part.training for part in model.patch_embed1.modules())


@pytest.mark.parametrize(
    ("kind", "what"), [("detector's", "stem"), ("detector's", "encoder"), ("classifier", "encoder")]
)
def test_recomputed_and_compiled_gradients_are_those_of_the_plain_run(kind: str, what: str, images: Tensor) -> None:
    results = []
    for recomputed, compiled in ((False, False), (True, False), (True, True)):
        model = make(kind, what, checkpoint_activations=recomputed)
        head = nn.Linear(1, 1)  # what a task puts on it, so that there is something to learn
        torch.nn.init.ones_(head.weight)

        def step(model: Encoder = model, head: nn.Module = head) -> None:
            torch.manual_seed(2)
            head(loss(model, images)[None]).sum().backward()

        if compiled:
            assert count_graphs([model.forward], step, 2) == [1, 1]
            model.zero_grad()
            head.zero_grad()
        step()
        results.append({name: value.grad for name, value in [*model.named_parameters(), *head.named_parameters()]})
    for name, expected in results[0].items():
        for found in results[1:]:
            if expected is None:
                assert found[name] is None, name
            else:
                torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="freeze is 'head'; expected 'none', 'stem' or 'encoder'"):
        make("classifier", "head")
