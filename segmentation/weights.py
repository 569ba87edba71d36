"""A segmenter's weights from files, and the classes that they name."""

from pathlib import Path

from convmae.backbones import load_checkpoint
from convmae.engine.errors import UserError
from convmae.engine.files import read_meta
from convmae.engine.log import log
from convmae.engine.weights import check_filled
from convmae.segmentation.model import UPerNet


def load_weights(model: UPerNet, checkpoint: Path, classes: list[str]) -> None:
    """Fills ``model`` from a checkpoint of any known layout; raises UserError unless it fills all that labelling needs."""
    report = load_checkpoint(model, checkpoint)
    log.info(str(report))
    check_filled(report, checkpoint, len(classes), "decode_head.conv_seg", ("auxiliary_head.",))
    if any("backbone.fpn." in name for name in report.unexpected):
        raise UserError(
            f"{checkpoint} makes E4 by a convolution; expected the recipe of its run: give it by --config, or set "
            "model.downsample=conv."
        )
    known = read_class_names(checkpoint)
    differing = next((pair for pair in zip(known, classes, strict=False) if pair[0] != pair[1]), None)
    if differing:
        log.warning(
            f"{checkpoint} was trained on a list that has {differing[0]!r} where the data has {differing[1]!r}; classes are "
            "taken by their order."
        )


def read_class_names(checkpoint: Path) -> list[str]:
    """Returns the classes that stand in a segmenter's weights, as this project, mmengine or mmseg 0.x write them, or []."""
    meta = read_meta(checkpoint)
    dataset = meta.get("dataset_meta") or {}
    return list(map(str, dataset.get("classes") or meta.get("CLASSES") or ()))
