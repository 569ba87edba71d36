"""The memory of a training step against what a layer keeps by hand, and against itself."""

import pytest
import timm
import torch
from torch import nn

from convmae.backbones import ConvViT
from convmae.benchmarks.counting.communication import held_by
from convmae.benchmarks.counting.fake_gpu import count_step
from convmae.benchmarks.counting.step_memory import Activations, activations, memory_table, recompute
from convmae.benchmarks.counting.whole_models import build, build_from, with_teachers
from convmae.pretraining import METHODS
from convmae.pretraining.config import EMA, PretrainingConfig, Target

WIDTH, BATCH = 2048, 64


class Towers(nn.Module):
    """A linear layer of one number of a picture, and three of its own width, each with a GELU before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.first(images[:, :1, 0, 0])
        for layer in self.layers:
            x = layer(nn.functional.gelu(x))
        return x[:, :10]


def test_what_linear_layers_keep_is_known() -> None:
    found = activations(Towers(), torch.zeros(1, 3, 2, 2), BATCH)
    casts, each = 3 * 2 * WIDTH**2, 2 * BATCH * WIDTH  # all in bf16
    # GELU's input and the layer's at each of three, and the last one's output.
    assert found.forward == pytest.approx(casts + 7 * each, rel=0.01)
    gradients = 3 * 4 * WIDTH**2
    assert gradients < found.step < gradients + casts + 7 * each  # some of what is kept has been given up by then


@pytest.mark.parametrize("task", ["encoder", "detection_backbone", "segmentation_backbone"])
def test_encoders_alone_are_counted(task: str) -> None:
    with torch.device("meta"):
        model, (images, *_) = build(task, "tiny", 64, 64, 0.75)
    assert activations(model, images, 4).forward > activations(model, images, 2).forward > 0


@pytest.mark.parametrize("task", ["fastconvmae", "mae", "classifier", "segmentation", "detection", "cascade_detection"])
def test_each_picture_adds_as_much_and_recomputing_saves(task: str) -> None:
    with torch.device("meta"):
        model, (images, *_) = build(task, "tiny", 64, 64, 0.75)
    few, some, more = (activations(model, images, batch).forward for batch in (2, 4, 6))
    assert 0 < few < some < more
    assert more - some == pytest.approx(some - few, rel=0.05)
    recompute(model, True)
    assert activations(model, images, 4).forward < some
    if task == "segmentation":
        with pytest.raises(ValueError, match="batch norm, which this model has, needs 2"):
            activations(model, images, 1)


def test_a_frozen_encoder_keeps_little() -> None:
    with torch.device("meta"):
        model, (images, *_) = build("detection", "tiny", 64, 64, 0.75)
    learning = activations(model, images, 4)
    model.model.backbone.freeze("encoder")
    frozen = activations(model, images, 4)
    assert frozen.forward < learning.forward
    assert frozen.step < learning.step


def test_a_teacher_is_kept_whole_and_sees_each_picture() -> None:
    student, frozen = "pixels", "vit_tiny_patch16_224"
    found, steps = {}, {}
    for names in ([student], [student, EMA], [student, frozen]):
        config = PretrainingConfig(targets=[Target(teacher=name) for name in names])
        config.model.size = "tiny"
        with torch.device("meta"):
            model, (images,) = build_from(config, 64, 64)
            alone = sum(4 * one.numel() for one in model.model.parameters() if one.requires_grad)
            model = with_teachers(model, config, 64, 64)
        found[names[-1]], steps[names[-1]] = held_by("model", model), activations(model, images, 8)
        trained = sum(4 * one.numel() for one in model.parameters() if one.requires_grad)
        assert found[names[-1]].gradients == trained
        assert (trained > alone) == (len(names) > 1)  # a target has blocks of its own
    named = METHODS[config.model.method]("tiny", (64, 64)).named_parameters()
    encoder = sum(4 * one.numel() for name, one in named if "decoder" not in name and name != "mask_token")
    network = sum(4 * one.numel() for one in timm.create_model(frozen, num_classes=0).parameters())
    kept = {name: one.kept - 4 * one.gradients for name, one in found.items()}  # beside weights, gradients and moments
    assert kept[EMA] - kept[student] == encoder
    assert found[frozen].whole == network
    assert kept[frozen] - kept[student] == network + 2 * 3 * 4  # its own normalisation of three channels
    assert found[EMA].whole == found[student].whole == 0
    most = found[frozen]
    assert most.split(8) == (most.kept - network) // 8 + network + 2 * most.block  # --shard leaves it whole
    assert most.block == found[student].block
    for name in (EMA, frozen):
        assert steps[name].forward > steps[student].forward


def test_recomputed_blocks_run_twice_with_the_same_precision() -> None:
    def counted(again: bool) -> dict[str, int]:
        def make():
            model = ConvViT("tiny", 0, 64, checkpoint_activations=again).train()
            return lambda: model.forward_features(torch.zeros(2, 3, 64, 64)).float().sum()

        return dict(count_step(make).kernels)

    once, twice = counted(False), counted(True)
    assert twice["aten::native_layer_norm"] > 1.8 * once["aten::native_layer_norm"]
    assert twice["aten::mm"] == once["aten::mm"]  # of the backward pass, which is the same
    flash = "aten::_scaled_dot_product_flash_attention"
    assert twice[flash] == 2 * once[flash]


def test_the_table_adds_up() -> None:
    held = held_by("model", Towers())
    kept, gradients = held.kept / 1e9, held.gradients / 1e9
    (*_, row) = memory_table([(held, [Activations(3, int(2e9), int(3e9))])], [4]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["model", "3"]
    assert cells[2:] == [f"{kept:.2f} GB", "2.00 GB", f"{kept - gradients + 3:.2f} GB", f"{kept / 4 + 2:.2f} GB"]
