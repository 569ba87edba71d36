"""The `convmae` command: `convmae pretrain ...` is `python tools/pretrain.py ...`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

TOOLS = {
    "pretrain": "pretrain an encoder on plain images",
    "visualize": "draw reconstructions, features or attention of a pretrained model",
    "finetune": "fine-tune a classifier on class folders",
    "test_cls": "evaluate a classifier and write a report",
    "linear_probe": "train linear classifiers on frozen features",
    "knn": "classify by nearest neighbours of frozen features",
    "train_det": "train Mask R-CNN on COCO-format data",
    "test_det": "evaluate Mask R-CNN and write a report",
    "predict": "draw what a model finds on pictures, and write it as JSON",
    "pack": "pack a folder of pictures as tar shards with an index",
    "check_data": "look for all that is wrong with a data set",
    "train_seg": "train UPerNet on ADE20K-format data",
    "test_seg": "evaluate UPerNet and write a report",
    "analyze": "count parameters and multiply-adds by part",
    "benchmark": "time the parts against their plain counterparts",
    "worth": "say whether pretraining on your pictures pays",
    "study": "compare ways to pretrain, in miniature",
    "convert_checkpoint": "turn weights of another layout into this project's, or back",
    "run_mmdet": "run mmdetection's own tools with this project's encoder",
    "export": "write a detector, segmenter, classifier or encoder as ONNX",
    "scenes": "write generated scenes to try everything on",
    "demo": "the whole path on generated scenes, in minutes",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool that the first word names and returns its exit status."""
    if argv is None:  # as a program
        import convmae.tools.starting  # noqa: F401
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0].replace("-", "_") if words else "help"
    if name in TOOLS:
        status: int = importlib.import_module(f"convmae.tools.{name}").main(words[1:])
        return status
    listing = "\n".join(f"  {tool:<20}{doc}" for tool, doc in TOOLS.items())
    print(f"usage: convmae TOOL [options], --help after a tool's name shows its options\n\n{listing}")
    if name in ("help", "__help", "_h"):
        return 0
    print(f"\nerror: there is no tool {words[0]!r}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
