"""Run one of mmdetection's own tools with ConvViTDet, and with operators by torchvision where mmcv has none compiled.

python tools/run_mmdet.py train configs/mmdet_mask_rcnn_convmae_25e.py --cfg-options model.backbone.init=convmae_base.pth
python tools/run_mmdet.py test configs/mmdet_mask_rcnn_convmae_25e.py mmdet.pth
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from convmae.engine.commands.cli import run_tool
from convmae.engine.errors import UserError


def run(tool: str, options: Sequence[str]) -> None:
    """Runs a script of mmdet's as the main program. Raises UserError where there is no such mmdet, script or file."""
    import convmae.detection.mmdet_operators  # noqa: F401  (its test.py imports models before it reads a config)

    # isort: split
    import mmdet

    folder = Path(mmdet.__file__).parent / ".mim" / "tools"
    script = folder / f"{tool}.py"
    if not script.is_file():
        names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.py"))
        raise UserError(f"mmdet has no tool {tool}; expected one of {', '.join(names)}.")
    with mock.patch.object(sys, "argv", [str(script), *options]):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except FileNotFoundError as error:  # mmengine's own may hold a sentence alone
            missing = error.filename or str(error).rstrip(".")
            raise UserError(
                f"mmdet's {tool} found no file: {missing}; expected one there: correct the name or bring the file."
            ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tool", help="train, test, or another script in mmdet's tools, such as analysis_tools/get_flops"
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, help="that tool's own; --help after its name shows them")
    args = parser.parse_args(argv)
    return run_tool(lambda: run(args.tool, args.options))


if __name__ == "__main__":
    sys.exit(main())
