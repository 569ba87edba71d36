"""Write seeded textured scenes as an image folder, as class folders, as COCO and as ADE20K: data to try everything on.

python tools/scenes.py data/scenes --train 400 --val 60
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from convmae.engine.commands.cli import run_tool
from convmae.engine.pictures.scenes import generate


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write them")
    parser.add_argument("--train", type=int, default=400, help="training scenes (default 400)")
    parser.add_argument("--val", type=int, default=60, help="validation scenes (default 60)")
    parser.add_argument("--unlabelled", type=int, default=400, help="more scenes for pretraining (default 400)")
    parser.add_argument("--size", type=int, default=128, help="side of a scene, in pixels (default 128)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    args = parser.parse_args(argv)

    def run() -> None:
        made = generate(args.folder, args.train, args.val, args.unlabelled, args.size, args.seed)
        for layout in fields(made):
            print(f"{layout.name}: {getattr(made, layout.name)}")

    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
