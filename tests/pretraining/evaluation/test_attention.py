"""Attention maps: the weights that PyTorch's own attention reports, and heat where they are large."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convmae.backbones import ConvViT, ViT
from convmae.pretraining.evaluation import attention
from convmae.pretraining.evaluation.attention import AttentionMaps, attention_maps, attention_sheet, spread_queries

PATCH = 16
IMAGE = torch.randn(3, 40, 75, generator=torch.Generator().manual_seed(0))  # 3 x 5 patches


def encoder(kind: str) -> ConvViT | ViT:
    torch.manual_seed(1)
    if kind == "convvit":
        dims = {"embed_dims": (8, 12, 16), "depths": (1, 1, 3), "num_heads": 4}
        model: ConvViT | ViT = ConvViT(dims, num_classes=0, img_size=64)
    else:
        model = ViT({"embed_dim": 16, "depth": 3, "num_heads": 4}, num_classes=0, img_size=64)
    for name, weight in model.named_parameters():
        if "qkv" in name:
            nn.init.normal_(weight, std=0.8)  # attention far from uniform
    return model.eval()


def reference(block: nn.Module, run: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """The weights [heads, L, L] that torch.nn.MultiheadAttention reports for a block's input."""
    seen: list[torch.Tensor] = []
    hook = block.attn.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    run.forward_features(image[None])
    hook.remove()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": block.attn.qkv.weight,
            "in_proj_bias": block.attn.qkv.bias,
            "out_proj.weight": block.attn.proj.weight,
            "out_proj.bias": block.attn.proj.bias,
        }
    )
    return theirs(*seen * 3, need_weights=True, average_attn_weights=False)[1][0].detach()


@pytest.mark.parametrize("block", [None, 0, 1])
@pytest.mark.parametrize("kind", ["convvit", "vit"])
def test_weights_are_those_of_pytorchs_own_attention(kind: str, block: int | None) -> None:
    model = encoder(kind)
    blocks = model.blocks3 if isinstance(model, ConvViT) else model.blocks
    weights = reference(blocks[2 if block is None else block], model, IMAGE)
    first = 1 if kind == "vit" else 0  # the class token
    queries = [(0, 0), (2, 3), (1, 4)]
    maps = attention_maps(model, IMAGE, queries, block)
    assert maps.weights.shape == (3, 4, 3, 5)
    for (row, column), found in zip(queries, maps.weights, strict=True):
        expected = weights[:, first + 5 * row + column, first:].unflatten(1, (3, 5))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    expected = weights[:, first:, first:].mean(dim=(0, 1)).unflatten(0, (3, 5))
    torch.testing.assert_close(maps.received, expected, rtol=1e-4, atol=1e-6)
    if kind == "convvit":
        torch.testing.assert_close(maps.weights.sum(dim=(2, 3)), torch.ones(3, 4))


def test_looking_changes_nothing() -> None:
    model = encoder("convvit")
    before = model.forward_features(IMAGE[None])
    attention_maps(model, IMAGE)
    assert torch.equal(model.forward_features(IMAGE[None]), before)
    with pytest.raises(RuntimeError):
        attention_maps(model, IMAGE[:2])
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("grid", [(14, 14), (3, 5), (1, 1), (2, 2), (1, 9)])
def test_queries_are_spread_over_any_grid(grid: tuple[int, int]) -> None:
    queries = spread_queries(grid)
    assert len(set(queries)) == len(queries) <= 5
    assert queries[0] == (grid[0] // 2, grid[1] // 2)
    assert all(0 <= row < grid[0] and 0 <= column < grid[1] for row, column in queries)
    if min(grid) >= 3:
        assert len(queries) == 5


@pytest.mark.parametrize("query", [(3, 0), (0, 5), (-1, 0)])
def test_a_patch_that_is_not_there_is_refused(query: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"grid of 3 x 5; expected a row of 0 to 2 and a column of 0 to 4"):
        attention_maps(encoder("convvit"), IMAGE, [(0, 0), query])


@pytest.mark.parametrize("block", [3, -1])
def test_a_block_that_is_not_there_is_refused(block: int) -> None:
    with pytest.raises(ValueError, match=rf"no block {block}; expected 0 to 2"):
        attention_maps(encoder("convvit"), IMAGE, block=block)


def test_heat_lies_on_the_patch_that_is_attended_to(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[list[Image.Image], list[str]]] = []
    real = attention.row
    monkeypatch.setattr(attention, "row", lambda images, captions: rows.append((images, captions)) or real(*rows[-1]))
    weights = torch.full((1, 6, 3, 5), 0.01)
    weights[0, :, 1, 3] = 0.86
    received = torch.full((3, 5), 1 / 15)
    received[2, 4] = 3 / 15
    sheet = attention_sheet(torch.zeros(3, 40, 75), AttentionMaps([(0, 1)], weights, received, "blocks3.2"))
    (first, titles), (second, captions) = rows
    assert sheet.width >= second[0].width + second[1].width
    assert "peak 3.0 x uniform" in titles[1]
    assert "row 0, column 1" in captions[0]
    assert "peak 12.9 x uniform" in captions[0]
    assert captions[1].startswith("heads 1 to 6")

    def warmth(panel: Image.Image, row: int, column: int) -> float:
        """Red in the middle of a patch, where no mark is drawn."""
        scale = PATCH * panel.height / 40
        top, left = int((row + 0.3) * scale), int((column + 0.3) * scale)
        return float(
            np.asarray(panel, np.float64)[top : top + int(0.3 * scale), left : left + int(0.3 * scale), 0].mean()
        )

    assert warmth(second[0], 1, 3) > 2 * warmth(second[0], 1, 2)
    assert warmth(first[1], 2, 4) > 1.3 * warmth(first[1], 2, 3)
    marked = (np.asarray(second[0]).astype(int) - np.array(attention.MARK)).__abs__().max(axis=2) < 40
    rows_, columns = np.nonzero(marked)
    scale = PATCH * second[0].height / 40
    assert rows_.max() == pytest.approx(scale, abs=3)
    assert (columns.min(), columns.max()) == (pytest.approx(scale, abs=3), pytest.approx(2 * scale, abs=3))
