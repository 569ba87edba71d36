"""A segmenter's weights from files, and the classes that they name."""

import re
from pathlib import Path

from convmae.backbones import load_checkpoint
from convmae.engine.class_lists import check_classes, known_classes
from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, Report
from convmae.engine.files import read_config, read_meta, read_text
from convmae.engine.log import log
from convmae.engine.whole_weights import check_filled
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.model.upernet import UPerNet


def load_weights(model: UPerNet, checkpoint: Path, classes: list[str]) -> None:
    """Fills ``model`` from a checkpoint of any known layout.

    Raises UserError unless it fills all that labelling needs, and where it names other classes or in another order.
    """
    report = load_checkpoint(model, checkpoint)
    log.info(str(report))
    check_filled(report, checkpoint, len(classes), "decode_head.conv_seg", ("auxiliary_head.",))
    if any("backbone.fpn." in name for name in report.unexpected):
        raise UserError(
            f"{checkpoint} makes E4 by a convolution; expected the recipe of its run: give it by --config, or set "
            "model.downsample=conv."
        )
    known = read_class_names(checkpoint)
    check_classes(checkpoint, known, _in_words_of(known, classes), "the class list")


def check_numbering(checkpoint: Path, options: SegmentationDataOptions, report: Report) -> None:
    """Reports where weights name the run that made them, and label 0 was a class there and is none here, or the reverse."""
    # A search, as another project's weights may hold a "config" that is no YAML.
    beside = checkpoint.parent / "config.yaml"
    kept = read_config(checkpoint) or (read_text(beside) if beside.is_file() else "")
    known = re.search(r"^  reduce_zero_label: (true|false)$", kept, re.MULTILINE)
    now = str(options.reduce_zero_label).lower()
    if not known or known[1] == now:
        return
    message = (
        f"{checkpoint} was trained with data.reduce_zero_label={known[1]}, and is tested with {now}: its first class is label "
        f"{int(now == 'true')} here, and was {int(known[1] == 'true')}. That is right only for label maps that are numbered so."
    )
    report(Fault("splits that are numbered otherwise than in training", message, Effect.DOUBTFUL))


def read_class_names(checkpoint: Path) -> list[str]:
    """Returns the classes that stand in a segmenter's weights, as this project, mmengine or mmseg 0.x write them, or []."""
    return known_classes(read_meta(checkpoint))


def _in_words_of(known: list[str], classes: list[str]) -> list[str]:
    """Returns ``classes``, but ``known``'s name where the two are synonyms: ADE20K's "building, edifice" is mmseg's "building".

    A name that both lists have stays, so that another order shows.
    """
    lone = set(known) ^ set(classes)
    pairs = zip(known, classes, strict=False)
    alike = [old if {old, new} <= lone and _words(old) & _words(new) else new for old, new in pairs]
    return alike + classes[len(known) :]


def _words(name: str) -> set[str]:
    return {word.strip().casefold() for word in re.split("[,;]", name)}
