"""Write an encoder or a classifier as ONNX, for pictures of any size, and compare it with PyTorch at several sizes.

python tools/export.py work_dirs/finetune/model.pth --output classifier.onnx
python tools/export.py convmae_base.pth --part encoder --output encoder.onnx --img-size 480x640
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import importlib.util
import inspect
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from convmae.engine.class_lists import known_classes
from convmae.engine.commands.cli import read_size, run_tool
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file, file_of, read_meta
from convmae.engine.machine.interrupts import reading_modules
from convmae.engine.pictures.images import channel_statistics
from convmae.engine.text import visible

if TYPE_CHECKING:
    from torch import nn

    from convmae.backbones import ConvViT

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OUTPUTS = {"encoder": ("E1", "E2", "E3"), "classifier": ("logits",)}
OPSETS = range(18, 26)  # PyTorch translates to 18, the others are converted from it
# Batch, height and width where the graph is compared with PyTorch; two are no multiples of the stride.
SIZES = ((1, 64, 64), (2, 96, 160), (1, 97, 131), (3, 33, 250))
TOLERANCE = 1e-3  # of an output's largest value: more than other kernels differ by, less than a wrong graph does
EPSILON = 1e-12  # of outputs that are all zero

# In the file of a detector or segmenter, what its stage 3 has and ConvViT lacks.
_OTHER_STAGE3 = re.compile(r"(?:^|\.)(?:blocks[123]|\w+_rel_pos_bias)\.")


def pyramid(model: ConvViT) -> nn.Module:
    """Returns what gives E1, E2, E3 of a ConvViT."""
    from torch import Tensor, nn

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return model.forward_pyramid(images)

    return Pyramid().eval()


def read_model(weights: Path, part: str | None) -> tuple[nn.Module, ConvViT, str]:
    """Returns what to export, the ConvViT in it, and which part that is: without `part`, a classifier if there is a head.

    Raises:
        UserError: the file lacks what the part needs, or its encoder computes something else than a ConvViT.
        CheckpointError: it can't be read safely, or holds no encoder.
    """
    from convmae.backbones import ConvViT

    model = ConvViT.from_checkpoint(weights).eval()
    report = model.load_report
    print(visible(str(report)))
    # A pretraining checkpoint may hold an EMA teacher, whose encoder is another one beside the model's.
    if other := [name for name in report.unexpected if _OTHER_STAGE3.search(name) and "teachers." not in name]:
        raise UserError(
            f"{weights} holds an encoder of detection or segmentation ({other[0]}, ...), whose windows and biases the graph "
            "would lack; expected a pretrained or a fine-tuned encoder."
        )
    head = ("fc_norm.", "head.")
    if missing := [name for name in report.missing if not name.startswith(head)]:
        raise UserError(f"{weights} is no whole encoder: it lacks {', '.join(missing[:3])}, ...")
    lacking = [name for name in report.missing if name.startswith(head)]
    if part == "classifier" and lacking:
        raise UserError(
            f"{weights} has no classifier: it lacks {', '.join(lacking)}. Export its encoder: --part encoder."
        )
    if part == "encoder" or lacking:
        return pyramid(model), model, "encoder"
    return model, model, "classifier"


def export(
    module: nn.Module,
    part: str,
    own: tuple[int, int],
    fixed: tuple[int, int] | None,
    opset: int | None,
    path: Path,
    classes: Sequence[str] = (),
    channels: int = 3,
) -> None:
    """Writes the graph for any batch, and any height and width unless they are `fixed`; `own` are the model's.

    What the logits are stands in its metadata, as a JSON list of `classes`.
    """
    import torch

    from convmae.backbones.convvit import STRIDE

    dim = torch.export.Dim
    if fixed:
        (height, width), dynamic = fixed, {0: dim("batch")}
    else:
        # Another grid than the model's, at which its positions would not be resampled; and sides that differ, to stay apart.
        height, width = own[0] + STRIDE, own[0] + own[1] + STRIDE
        dynamic = {0: dim("batch"), 2: dim("height"), 3: dim("width")}
    program = torch.onnx.export(
        module,
        (torch.zeros(2, channels, height, width),),
        dynamo=True,
        verbose=False,
        opset_version=opset,
        dynamic_shapes=(dynamic,),
        input_names=["images"],
        output_names=list(OUTPUTS[part]),
    )
    assert program is not None  # of the exporter that `dynamo` names
    if classes:
        program.model.metadata_props["classes"] = json.dumps(list(classes))
    program.save(path)


def read_classes(weights: Path, logits: int) -> list[str]:
    """Returns the names of a classifier's classes that stand in its file, or []. Raises UserError for fewer or more."""
    meta = read_meta(weights)
    names = list(map(str, (meta.get("dataset_meta") or {}).get("classes") or known_classes(meta)))
    if names and len(names) != logits:
        raise UserError(
            f"{weights} names {len(names)} classes for {logits} logits; expected a class for each: the model.pth of a run."
        )
    return names


def compare(module: nn.Module, path: Path, sizes: Sequence[tuple[int, int, int]], channels: int = 3) -> float:
    """Prints how the graph's outputs differ from PyTorch's at each size (batch, height, width); returns the most.

    A difference is in parts of the output's largest value. Raises UserError where the outputs disagree.
    """
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for batch, height, width in sizes:
        images = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = module(images)
        expected = (expected,) if isinstance(expected, torch.Tensor) else expected
        found = [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]
        shapes = [tuple(output.shape) for output in expected], [tuple(output.shape) for output in found]
        if shapes[0] != shapes[1]:
            raise UserError(f"At {height}x{width} the graph returns shapes {shapes[1]}, PyTorch {shapes[0]}.")
        pairs = zip(expected, found, strict=True)
        parts = [(ours - theirs).abs().max() / ours.abs().max().clamp_min(EPSILON) for ours, theirs in pairs]
        differences.append(torch.stack(parts).max())
        print(f"  {batch} x {height}x{width}: {differences[-1]:.1e}")
    worst = float(torch.stack(differences).max())
    if not worst <= TOLERANCE:
        raise UserError(f"The graph differs from PyTorch by {worst:.1e}, more than {TOLERANCE:g}; try another --opset.")
    return worst


def check_request(weights: Path, output: Path, overwrite: bool) -> None:
    """Raises UserError before any work: a package is missing, or the output can't be written or is the weights' file."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"Export needs {' and '.join(missing)}: pip install {' '.join(PACKAGES)}")
    if not output.parent.is_dir():
        raise UserError(f"There is no folder {output.parent}: make it, or give another --output.")
    if output.is_dir():
        raise UserError(f"{output} is a folder: name a file in it by --output.")
    if os.path.realpath(output) == os.path.realpath(weights):
        raise UserError(f"{output} holds the weights: name another file by --output.")
    if output.exists() and not overwrite:
        raise UserError(f"{output} is there already: give another --output, or --overwrite.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights", type=Path, help="weights of any known layout (.pth, .safetensors), ours or published"
    )
    parser.add_argument("--output", type=Path, help="the file to write (default: beside the weights, ending in .onnx)")
    parser.add_argument(
        "--part", choices=tuple(OUTPUTS), help="E1, E2, E3 or logits (default: logits if the file has a head)"
    )
    parser.add_argument(
        "--img-size", metavar="SIZE", help="fix height and width, as 224 or 480x640 (default: the graph takes any)"
    )
    parser.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        metavar=f"{OPSETS[0]}..{OPSETS[-1]}",
        help="ONNX operators (default: PyTorch's)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    args = parser.parse_args(argv)

    def run() -> None:
        weights = file_of(args.weights)
        output = args.output or weights.with_suffix(".onnx")
        check_request(weights, output, args.overwrite)
        fixed = read_size(args.img_size) if args.img_size else None
        check_is_file(args.weights)
        with reading_modules():
            from convmae.backbones.convvit import STRIDE

        try:
            folder = TemporaryDirectory(dir=output.parent)
        except OSError as error:
            raise UserError(f"{output.parent} can't be written: {error.strerror}. Give another --output.") from None
        with folder as made:
            module, model, part = read_model(args.weights, args.part)
            rows, columns = model.grid_size
            own = (rows * STRIDE, columns * STRIDE)
            shape = "x".join(map(str, fixed)) if fixed else "any height and width"
            print(f"{part} with outputs {', '.join(OUTPUTS[part])}, for any batch of {shape}")
            classes = read_classes(args.weights, model.num_classes) if part == "classifier" else []
            if classes:
                print(f"the graph's metadata names its {len(classes)} classes")
            path = Path(made) / output.name
            export(module, part, own, fixed, args.opset, path, classes, model.in_chans)
            print("difference from PyTorch, in parts of an output's largest value")
            sizes = [(1, *fixed), (3, *fixed)] if fixed else [(1, *own), *SIZES]
            worst = compare(module, path, sizes, model.in_chans)
            written = sorted(made_file.replace(output.parent / made_file.name) for made_file in Path(made).iterdir())
        print(f"largest difference: {worst:.1e}")
        means, deviations = channel_statistics(model.in_chans)
        kind = "RGB" if model.in_chans == 3 else f"channels: {model.in_chans}"
        print(f"images: {kind}, values 0 to 1, less {means}, over {deviations}")
        print(f"written: {', '.join(map(str, written))}")

    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
