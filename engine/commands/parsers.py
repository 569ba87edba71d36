"""What all tools take on the command line, by the same names and with the same meaning."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Sequence
from pathlib import Path

from convmae.engine.config import describe, load_config
from convmae.engine.errors import UserError


def run_parser(argv: Sequence[str] | None, description: str, schema: type, recipe: str) -> argparse.ArgumentParser:
    """Returns the parser of a tool that makes a run: with its recipe, its work directory and its precision."""
    parser = parser_of(argv, description, schema, recipe)
    parser.add_argument("--config", help=f"a recipe: a file or a shipped name (default {recipe})")
    parser.add_argument("--work-dir", type=Path, help="where the run is written (default work_dirs/<recipe>)")
    parser.add_argument(
        "--amp", action="store_true", help="compute in bf16 (the recipe's `auto` takes it where it is fast)"
    )
    return parser


def parser_of(argv: Sequence[str] | None, description: str, schema: type, recipe: str) -> argparse.ArgumentParser:
    """Returns a parser whose help shows the values of the recipe that ``argv`` names, with what it sets of them."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(description), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", default=recipe)
    early.add_argument("-h", "--help", action="store_true")
    add_overrides(early)
    given, _ = early.parse_known_args(argv)
    if given.help:
        try:
            options = describe(load_config(schema, given.config, given.cfg_options))
        except UserError as error:
            parser.error(str(error))
        parser.epilog = f"options as {given.config} has them, set by --cfg-options key=value:\n{options}"
    parser.add_argument(
        "--launcher", choices=("none", "pytorch", "slurm"), default="none", help="who started the processes"
    )
    add_overrides(parser)
    return parser


def add_overrides(parser: argparse.ArgumentParser, example: str = "a.b=c") -> None:
    """Adds ``--cfg-options``."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"values that replace the recipe's, as {example}",
    )


def read_size(text: str) -> tuple[int, int]:
    """Returns height and width of 224 or 480x640. Raises UserError for anything else."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise UserError(f"--img-size is {text!r}; expected pixels, as 224 or 480x640 (height x width).")
    return int(match[1]), int(match[2] or match[1])
