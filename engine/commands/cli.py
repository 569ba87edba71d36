"""The command line that all tools share: one meaning for each option, one way to fail."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from convmae.engine.commands.parsers import parser_of, run_parser
from convmae.engine.commands.work_dirs import (
    alone_in,
    check_same_run,
    kept_recipe,
    prepare_report_dir,
    prepare_work_dir,
)
from convmae.engine.config import load_config, run_config
from convmae.engine.errors import STOPPED, Interrupted, UserError
from convmae.engine.files import check_is_file, file_of
from convmae.engine.log import log, process_rank, start_log
from convmae.engine.machine.failures import tell
from convmae.engine.machine.interrupts import ctrl_c_raises, reading_modules
from convmae.engine.machine.restarts import end_noted, goes_on, mark
from convmae.engine.machine.stop_signals import usr1_starts_again
from convmae.engine.shards.places import place


def run_tool(main: Callable[[], None]) -> int:
    """Runs a tool and returns its exit status: 2 and one message for a mistake of input, 130 after Ctrl-C, 75 after SIGUSR1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is shown by escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        with ctrl_c_raises():
            main()
    except Interrupted as stop:
        if process_rank() == 0:
            print(stop, file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        if process_rank() == 0:
            print("Stopped.", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if not tell(error):
            raise
        return 2
    return 0


def train_tool(
    argv: Sequence[str] | None,
    schema: type,
    read: Callable[[], Callable[[Any, Path, bool], Any]],
    *,
    description: str,
    recipe: str,
    read_fit: Callable[[], Callable[[Any, Sequence[str]], tuple[Any, list[str]]]] | None = None,
) -> int:
    """Parses a training tool's options, prepares the work directory and calls ``train(config, work_dir, resume)``.

    ``read`` imports and returns that function, once the options are known to be right: it takes seconds. Where the task can fit
    its recipe to the data, ``--auto`` has ``fit(config, given)`` do it, which ``read_fit`` imports: it returns the tree, and
    what it chose in words.
    """
    parser = run_parser(argv, description, schema, recipe)
    parser.add_argument(
        "--resume",
        nargs="?",
        choices=("auto",),
        const=True,
        default=False,
        help="continue from the newest checkpoint in the work directory, by its config.yaml unless --config is given; auto: by "
        "this same command, whatever it finds: it starts where there is nothing, and continues what it began",
    )
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier run from the work directory first")
    parser.add_argument("--compile", action="store_true", help="same as --cfg-options runtime.compile=true")
    parser.add_argument("--shard", action="store_true", help="same as --cfg-options runtime.shard=true")
    if read_fit:
        parser.add_argument(
            "--auto",
            action="store_true",
            help="choose batch, rate, epochs and the smallest crop by the number and size of the pictures; what is set stays",
        )
    args = parser.parse_args(argv)

    def main() -> None:
        def load(recipe: str | Path, more: Sequence[str] = ()) -> Any:
            flags = ["runtime.compile=true"] * args.compile + ["runtime.shard=true"] * args.shard
            return _run_config(args, schema, recipe, [*more, *flags])

        source = args.config or recipe
        kept = kept_recipe(_work_dir(args, source)) if args.resume is True and not args.config else None
        config, notes = load(kept or source), list[str]()
        with reading_modules():
            train = read()

            from convmae.engine.commands.weights_size import by_weights
            from convmae.engine.machine.processes import start_processes

        if config.model.init and not kept:
            default = "" if args.config else recipe
            config, source, notes = by_weights(config, source, default, args.cfg_options, load)
        if read_fit and args.auto and not kept:
            config, chosen = read_fit()(config, args.cfg_options)
            notes += chosen
        work_dir = _work_dir(args, source)
        start_processes(args.launcher, config.runtime)
        if goes_on(work_dir):  # began by this very job, whose options were for what it found before
            args.resume, args.overwrite = True, False
        notes = [f"continues with the options in {kept}"] if kept else notes
        start_run(config, work_dir, train, args.resume, args.overwrite, notes)

    with usr1_starts_again():
        return run_tool(main)


def start_run(
    config: Any,
    work_dir: Path,
    train: Callable[[Any, Path, bool], Any],
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    notes: Sequence[str] = (),
) -> None:
    """Prepares a work directory, starts its log with ``notes`` and calls ``train(config, work_dir, resume)``.

    Raises UserError for a directory that can't be written or holds what the run would replace, or another run than the one
    that ``resume="auto"`` starts or continues, and as ``train`` does.
    """
    teachers = getattr(getattr(config, "teachers", None), "weights", {})
    given = {
        "model.init": config.model.init,
        **{f"teachers.weights.{name}": file for name, file in teachers.items()},
    }
    for name, file in given.items() if overwrite else ():
        if file and os.path.dirname(os.path.realpath(file_of(file))) == os.path.realpath(work_dir):
            raise UserError(f"{name}={file} lies in {work_dir}, which --overwrite clears; move it first.")
    if config.runtime.compile:
        from convmae.engine.machine.compilation import check_compiler
        from convmae.engine.machine.precision import resolve_device

        check_compiler(resolve_device(config.runtime.device))
    with alone_in(work_dir):
        if resume == "auto":
            check_same_run(work_dir, config)
        prepare_work_dir(work_dir, bool(resume), overwrite)
        mark(work_dir)
        _start(config, work_dir)
        for note in notes:
            log.info(note)
        with end_noted(work_dir):
            train(config, work_dir, bool(resume))


def probe_tool(
    argv: Sequence[str] | None,
    schema: type,
    read: Callable[[], Callable[[Any, Path], Any]],
    *,
    description: str,
    recipe: str,
) -> int:
    """Parses the options of a tool that trains no model and calls ``probe(config, work_dir)``, which ``read`` imports."""
    parser = run_parser(argv, description, schema, recipe)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report in the work directory")
    args = parser.parse_args(argv)

    def main() -> None:
        work_dir = _work_dir(args, args.config or recipe)
        config = _run_config(args, schema, args.config or recipe)
        with reading_modules():
            probe = read()

            from convmae.engine.machine.processes import start_processes

        start_processes(args.launcher, config.runtime)
        with alone_in(work_dir):
            prepare_report_dir(work_dir, args.overwrite)
            _start(config, work_dir)
            probe(config, work_dir)

    return run_tool(main)


def _work_dir(args: argparse.Namespace, recipe: str) -> Path:
    return args.work_dir or Path("work_dirs") / Path(recipe).stem


def _run_config(args: argparse.Namespace, schema: type, recipe: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Returns the tree of a recipe, or of the config.yaml of a run that is continued, with the options that are given.

    Raises UserError where it is none, or names weights or a data folder that aren't there.
    """
    kept = isinstance(recipe, Path)
    try:
        config: Any = load_config(
            schema, recipe, [*args.cfg_options, *["runtime.precision=bf16"] * args.amp, *overrides]
        )
    except UserError as error:
        hint = f" ({recipe} was read as this tool's recipe; a run of another tool is continued by that tool.)"
        raise UserError(f"{error}{hint if kept else ''}") from None
    if config.model.init:
        check_is_file(config.model.init)
    _check_root(config.data)
    return config


def _check_root(data: Any) -> None:
    """Raises UserError where the data folder isn't there, unless other options have places of their own."""
    elsewhere = any(
        isinstance(value, str) and os.path.isabs(value) for name, value in vars(data).items() if name != "root"
    )
    if not elsewhere and not (data.root and place(data.root).is_dir()):
        raise UserError(f"There is no folder {data.root}; expected the data folder: name it by data.root.")


def test_tool(
    argv: Sequence[str] | None,
    schema: type,
    read: Callable[[], Callable[[Any, Path, Path], Any]],
    *,
    description: str,
    recipe: str,
    read_compare: Callable[[], Callable[[Sequence[Path], Sequence[str], Path], Any]] | None = None,  # noqa: PT028  (a tool)
) -> int:
    """Parses a testing tool's options and calls ``test(config, checkpoint, work_dir)``, which ``read`` imports.

    Where the task can compare, the option of that name calls ``compare(runs, overrides, work_dir)`` instead.
    """
    parser = parser_of(argv, description, schema, recipe)
    parser.add_argument("checkpoint", type=Path, nargs="?" if read_compare else None, help="the weights to test")
    if read_compare:
        parser.add_argument(
            "--compare",
            nargs="+",
            type=Path,
            metavar=("A", "B"),
            help="put two or more runs side by side instead: work directories of trainings or tests on the same pictures",
        )
    parser.add_argument(
        "--config", help=f"a recipe (default: the run's config.yaml beside it, what stands in the weights, or {recipe})"
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        help="where the report is written (default: test/ beside the checkpoint, or compare/ in the last of those compared)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report there")
    args = parser.parse_args(argv)
    runs: Sequence[Path] = args.compare or () if read_compare else ()
    if bool(runs) == bool(args.checkpoint):
        parser.error("give the weights to test, or two or more runs by --compare")

    def main() -> None:
        check_is_file(args.checkpoint)
        if args.config:  # what is wrong with it is told before PyTorch is read
            load_config(schema, args.config, args.cfg_options)
        with reading_modules():
            test = read()

            from convmae.engine.machine.processes import start_processes

        config: Any = run_config(schema, args.checkpoint, args.config, args.cfg_options, default=recipe)
        _check_root(config.data)
        start_processes(args.launcher, config.runtime)
        work_dir = args.work_dir or args.checkpoint.parent / "test"
        with alone_in(work_dir):
            prepare_report_dir(work_dir, args.overwrite)
            _start(config, work_dir)
            test(config, args.checkpoint, work_dir)

    def side_by_side() -> None:
        for folder in runs:
            if not folder.is_dir():
                raise UserError(f"There is no folder {folder}; expected the work directory of a run.")
        work_dir = args.work_dir or runs[-1] / "compare"
        prepare_report_dir(work_dir, args.overwrite)
        start_log(work_dir)
        if read_compare:
            with reading_modules():
                compare = read_compare()
            compare(runs, args.cfg_options, work_dir)

    return run_tool(side_by_side if runs else main)


def _start(config: Any, work_dir: Path) -> None:
    from convmae.engine.seeding import INIT, seed_all

    start_log(work_dir)
    seed_all(config.runtime.seed, INIT)
