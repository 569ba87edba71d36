"""The published detector's heads, of torchvision's blocks, at any width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead


def norm_layer(name: str) -> Callable[[int], nn.Module] | None:
    """Returns what makes the norm of a number of channels: bn, syncbn, gn, ln (over channels), or None for none."""
    layers: dict[str, Callable[[int], nn.Module] | None] = {
        "bn": nn.BatchNorm2d,
        "syncbn": nn.SyncBatchNorm,
        "gn": _group_norm,
        "ln": LayerNorm2d,
        "none": None,
    }
    return layers[name]


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32 if channels % 32 == 0 and channels >= 128 else 8 if channels % 8 == 0 else 1, channels)


class ProposalHead(RPNHead):
    """Objectness and box deltas of each anchor after ``convs`` shared 3x3 convolutions, in fp32 whatever the precision."""

    def __init__(self, channels: int, anchors: int, convs: int) -> None:
        super().__init__(channels, anchors, conv_depth=convs)

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class BoxPredictor(nn.Module):
    """Class logits [N, classes + 1], background last, and box deltas [N, moves * 4], one a class or one for all, in fp32."""

    def __init__(self, channels: int, classes: int, moves: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, classes + 1)
        self.bbox_pred = nn.Linear(channels, moves * 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x).float(), self.bbox_pred(x).float()


def box_head(channels: int, size: int, convs: Sequence[int], hidden: Sequence[int], norm: str) -> nn.Module:
    """Returns the head that turns [N, channels, size, size] into [N, hidden[-1]] by 3x3 convolutions and linear layers."""
    head = FastRCNNConvFCHead((channels, size, size), list(convs), list(hidden), norm_layer(norm))
    for layer in head.modules():  # torchvision leaves PyTorch's own start; this is detectron2's, sqrt(3) times as wide
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
    return head


def mask_head(channels: int, convs: Sequence[int], norm: str) -> nn.Module:
    """Returns the head of 3x3 convolutions on [N, channels, 14, 14]."""
    return MaskRCNNHeads(channels, list(convs), dilation=1, norm_layer=norm_layer(norm))


def mask_predictor(channels: int, classes: int) -> nn.Module:
    """Returns the layer that doubles the side and gives one mask logit for each class."""
    predictor = MaskRCNNPredictor(channels, channels, classes)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    return predictor
