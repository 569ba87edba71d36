"""The command line that all tools share: one meaning for each option, one way to fail."""

from __future__ import annotations

import argparse
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from convmae.engine.config import describe, load_config, run_config
from convmae.engine.errors import Interrupted, UserError
from convmae.engine.log import process_rank, start_log
from convmae.engine.machine.failures import tell
from convmae.engine.machine.interrupts import ctrl_c_raises
from convmae.engine.run_files import LIST, listed, matching, not_listed, only_one, remove_listed, start_list, sweep
from convmae.engine.text import visible

# What a run writes, but for its log and curves, which it goes on with.
_REPORT = ("config.yaml", "metrics.json", "report/index.html", "detections.json", "predictions.zip", "log.txt")
_RUN = (
    *_REPORT,
    *(
        "step_*.pth",
        "best.pth",
        "model.pth",
        "encoder.pth",
        "encoder.safetensors",
        "pretrained.pth",
        "pretrained.safetensors",
        "reconstructions.png",
        "scalars.jsonl",
        "job.txt",
    ),
)
_MARKS = ("config.yaml", "metrics.json", "step_*.pth")  # a log alone is of a run that was refused before it began
_WEIGHTS = (".pth", ".safetensors")


def run_tool(main: Callable[[], None]) -> int:
    """Runs a tool and returns its exit status: 2 and one message for a mistake of input, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is shown by escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        with ctrl_c_raises():
            main()
    except Interrupted as stop:
        if process_rank() == 0:
            print(stop, file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        if process_rank() == 0:
            print("Stopped.", file=sys.stderr)
        return 130
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
    train: Callable[[Any, Path, bool], Any],
    *,
    description: str,
    recipe: str,
) -> int:
    """Parses a training tool's options, prepares the work directory and calls ``train(config, work_dir, resume)``."""
    parser = _run_parser(description, schema, recipe)
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest checkpoint in the work directory"
    )
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier run from the work directory first")
    parser.add_argument("--compile", action="store_true", help="same as --cfg-options runtime.compile=true")
    args = parser.parse_args(argv)

    def main() -> None:
        from convmae.backbones.weights.weight_files import split_choice
        from convmae.engine.machine.restarts import goes_on, mark

        config, work_dir = _run_of(args, schema, ["runtime.compile=true"] * args.compile)
        if goes_on(work_dir):  # began by this very job, whose options were for what it found before
            args.resume, args.overwrite = True, False
        teachers = getattr(getattr(config, "teachers", None), "weights", {})
        given = {
            "model.init": config.model.init,
            **{f"teachers.weights.{name}": file for name, file in teachers.items()},
        }
        for name, file in given.items() if args.overwrite else ():
            if file and os.path.dirname(os.path.realpath(split_choice(file)[0])) == os.path.realpath(work_dir):
                raise UserError(f"{name}={file} lies in {work_dir}, which --overwrite clears; move it first.")
        if config.runtime.compile:
            from convmae.engine.machine.compilation import check_compiler
            from convmae.engine.machine.precision import resolve_device

            check_compiler(resolve_device(config.runtime.device))
        with alone_in(work_dir):
            prepare_work_dir(work_dir, args.resume, args.overwrite)
            mark(work_dir)
            _start(config, work_dir)
            train(config, work_dir, args.resume)

    return run_tool(main)


def probe_tool(
    argv: Sequence[str] | None, schema: type, probe: Callable[[Any, Path], Any], *, description: str, recipe: str
) -> int:
    """Parses the options of a tool that trains no model and calls ``probe(config, work_dir)``."""
    parser = _run_parser(description, schema, recipe)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report in the work directory")
    args = parser.parse_args(argv)

    def main() -> None:
        config, work_dir = _run_of(args, schema)
        with alone_in(work_dir):
            prepare_report_dir(work_dir, args.overwrite)
            _start(config, work_dir)
            probe(config, work_dir)

    return run_tool(main)


def _run_parser(description: str, schema: type, recipe: str) -> argparse.ArgumentParser:
    parser = _parser(description, schema)
    parser.add_argument("--config", default=recipe, help=f"a recipe: a file or a shipped name (default {recipe})")
    parser.add_argument("--work-dir", type=Path, help="where the run is written (default work_dirs/<recipe>)")
    parser.add_argument(
        "--amp", action="store_true", help="compute in bf16 (the recipe's `auto` takes it where it is fast)"
    )
    return parser


def _run_of(args: argparse.Namespace, schema: type, overrides: Sequence[str] = ()) -> tuple[Any, Path]:
    """Returns the tree and the work directory that a run's options name, in the processes that they say."""
    from convmae.engine.machine.processes import start_processes

    config: Any = load_config(
        schema, args.config, [*args.cfg_options, *["runtime.precision=bf16"] * args.amp, *overrides]
    )
    start_processes(args.launcher, config.runtime.device)
    return config, args.work_dir or Path("work_dirs") / Path(args.config).stem


def test_tool(
    argv: Sequence[str] | None,
    schema: type,
    test: Callable[[Any, Path, Path], Any],
    *,
    description: str,
    recipe: str,
    compare: Callable[[Sequence[Path], Sequence[str], Path], Any] | None = None,  # noqa: PT028  (a tool, not a test)
) -> int:
    """Parses a testing tool's options and calls ``test(config, checkpoint, work_dir)``.

    Where the task can ``compare``, the option of that name calls ``compare(runs, overrides, work_dir)`` instead.
    """
    parser = _parser(description, schema)
    parser.add_argument("checkpoint", type=Path, nargs="?" if compare else None, help="the weights to test")
    if compare:
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
    runs: Sequence[Path] = args.compare or () if compare else ()
    if bool(runs) == bool(args.checkpoint):
        parser.error("give the weights to test, or two or more runs by --compare")

    def main() -> None:
        from convmae.engine.files import check_is_file
        from convmae.engine.machine.processes import start_processes

        check_is_file(args.checkpoint)
        config: Any = run_config(schema, args.checkpoint, args.config, args.cfg_options, default=recipe)
        start_processes(args.launcher, config.runtime.device)
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
        if compare:
            compare(runs, args.cfg_options, work_dir)

    return run_tool(side_by_side if runs else main)


def alone_in(work_dir: Path) -> AbstractContextManager[None]:
    """Makes a work directory and keeps it for this run. Raises UserError if it can't be written or another run has it."""
    _make(work_dir)
    return only_one(work_dir) if process_rank() == 0 else nullcontext()


def prepare_work_dir(work_dir: Path, resume: bool, overwrite: bool) -> None:
    """Makes a run's work directory. Raises UserError if it can't be written or holds what the run would replace."""
    if resume and overwrite:
        raise UserError("--resume continues the run in the work directory, --overwrite removes it: give one of them.")
    if resume:
        _make(work_dir)
        if not matching(work_dir, ["step_*.pth"]):  # it starts anew, and may replace what an earlier start of it wrote
            _refuse_foreign(work_dir, _RUN)
        _start_list(work_dir)
        return
    advice = "Continue it with --resume, replace it with --overwrite, or give another --work-dir."
    _prepare(work_dir, overwrite, f"an earlier run (%s). {advice}", _RUN)


def prepare_report_dir(work_dir: Path, overwrite: bool) -> None:
    """Makes the folder of a test's report. Raises UserError as `prepare_work_dir` does, and where a training run is."""
    weights = [path for path in listed(work_dir) or () if path.suffix in _WEIGHTS and path.is_file()]
    if weights or matching(work_dir, ["step_*.pth"]):
        raise UserError(f"{work_dir} holds a training run, whose report would be replaced. Give another --work-dir.")
    advice = "Replace it with --overwrite, or give another --work-dir."
    _prepare(work_dir, overwrite, f"an earlier report (%s). {advice}", _REPORT)


def _make(work_dir: Path) -> None:
    try:
        str(work_dir).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"The name of the work directory, {visible(str(work_dir))}, is not in UTF-8, as TensorBoard expects. Give "
            "another by --work-dir."
        ) from None
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(work_dir, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(
            f"The work directory {work_dir} can't be written: {error.strerror}. Give another by --work-dir."
        ) from None


def _prepare(work_dir: Path, overwrite: bool, found: str, names: Sequence[str]) -> None:
    """Makes a folder in which none of ``names`` is left: what a run wrote goes if that is asked for, the user's never."""
    _make(work_dir)
    if process_rank() != 0:
        return
    own = listed(work_dir)
    if own and not overwrite:
        earlier = [path for path in matching(work_dir, _MARKS) if path in own]
        if earlier:
            raise UserError(f"{work_dir} holds {found % earlier[0].name}")
    _refuse_foreign(work_dir, names)
    if overwrite:
        sweep(work_dir)
        remove_listed(work_dir)
    _start_list(work_dir)


def _refuse_foreign(work_dir: Path, names: Sequence[str]) -> None:
    """Raises UserError where a folder holds files of these names that no run wrote."""
    foreign = not_listed(work_dir, names) if process_rank() == 0 else []
    if foreign:
        some = ", ".join(path.relative_to(work_dir).as_posix() for path in foreign[:3])
        raise UserError(
            f"{work_dir} holds {some}{', ...' * (len(foreign) > 3)}, which would be replaced and stands on no list of what "
            f"a run wrote there ({LIST}). Give another --work-dir, or move it."
        )


def _start_list(work_dir: Path) -> None:
    if process_rank() == 0:
        sweep(work_dir)
        start_list(work_dir)


def read_size(text: str) -> tuple[int, int]:
    """Returns height and width of 224 or 480x640. Raises UserError for anything else."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise UserError(f"--img-size is {text!r}; expected pixels, as 224 or 480x640 (height x width).")
    return int(match[1]), int(match[2] or match[1])


def _parser(description: str, schema: type) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(description),
        epilog=describe(schema),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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


def _start(config: Any, work_dir: Path) -> None:
    from convmae.engine.seeding import INIT, seed_all

    start_log(work_dir)
    seed_all(config.runtime.seed, INIT)
