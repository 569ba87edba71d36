"""What a run says of the weights that it starts from: nothing of names that are to be so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convmae.backbones import ConvViT, ConvViTDet, ConvViTSeg, ViT, load_checkpoint
from convmae.engine.whole_weights import tell_start
from convmae.pretraining import MAE, FastConvMAE


@pytest.mark.parametrize("part", ["encoder", "all"])
@pytest.mark.parametrize(
    ("kind", "of"), [(ConvViT, FastConvMAE), (ConvViTDet, FastConvMAE), (ConvViTSeg, FastConvMAE), (ViT, MAE)]
)
def test_weights_of_our_pretraining_leave_nothing_to_worry_about(
    kind: type, of: type, part: str, tmp_path: Path
) -> None:
    state = of("tiny", img_size=32).state_dict()
    if part == "encoder":
        state = {name: value for name, value in state.items() if "decode" not in name and name != "mask_token"}
    torch.save({"model": state}, tmp_path / "a.pth")
    said = tell_start(load_checkpoint(kind("tiny", img_size=32), tmp_path / "a.pth"))
    assert "missing" not in said
    assert "unexpected" not in said
    assert "are what this task adds" in said


def test_what_matters_is_named(tmp_path: Path) -> None:
    model = ConvViT("tiny", img_size=32, num_classes=3)
    state = FastConvMAE("tiny", img_size=32).state_dict()
    del state["blocks1.0.norm1.bias"]
    state["adapter.weight"] = torch.zeros(2)
    state["head.weight"], state["head.bias"] = torch.zeros(5, 256), torch.zeros(5)
    torch.save({"model": state}, tmp_path / "a.pth")
    said = tell_start(load_checkpoint(model, tmp_path / "a.pth"))
    for name in ("blocks1.0.norm1.bias", "adapter.weight", "head.weight ("):
        assert name in said
