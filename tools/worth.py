"""Does pretraining on your pictures pay, against training from scratch and against other weights? Runs it, and says so.

python tools/worth.py det data/coco --pictures data/unlabelled --work-dir work_dirs/worth
python tools/worth.py seg data/ade20k --encoder published=encoder.pth --further published --budget 12
python tools/worth.py cls data/classes --no-pretraining --encoder mine=work_dirs/pretrain/encoder.pth --shares 5 20 100

It times a few steps, tells how long all will take, and writes report/index.html anew after each run. What is finished is
not run again: the same command continues.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from convmae.engine.commands.cli import run_tool
from convmae.engine.commands.parsers import add_overrides
from convmae.engine.commands.work_dirs import alone_in
from convmae.engine.errors import Interrupted, UserError
from convmae.engine.log import log, start_log
from convmae.engine.machine.interrupts import reading_modules

TASKS = {"det": "COCO's layout", "seg": "ADE20K's layout", "cls": "class folders in train and val"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS, help=", ".join(f"{name}: {layout}" for name, layout in TASKS.items()))
    parser.add_argument("root", help="the labelled data")
    parser.add_argument(
        "--pictures", help="folder of pictures to pretrain on (default: the labelled training pictures)"
    )
    parser.add_argument("--no-pretraining", action="store_true", help="compare the given encoders with scratch alone")
    parser.add_argument(
        "--encoder", nargs="+", action="extend", default=[], metavar="NAME=FILE", help="weights to compare"
    )
    parser.add_argument(
        "--further", nargs="+", default=[], metavar="NAME", help="pretrain from these encoders, too: both in turn"
    )
    parser.add_argument("--config", help="the recipe to train by (default: one that fits the pictures)")
    parser.add_argument("--pretrain-config", help="the recipe to pretrain by (default: one of the encoder's size)")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/worth"), help="default work_dirs/worth")
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=[10, 25, 50, 100],
        help="percent of the labels (default 10 25 50 100)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default 0 1 2; an interval needs two")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1 / 3, 1, 3],
        help="factors of the recipe's learning rate, of which each arm takes its best (default a third, 1, 3)",
    )  # fmt: skip
    parser.add_argument("--draws", type=int, default=2, help="runs that try each rate; their mean counts (default 2)")
    parser.add_argument("--budget", type=float, help="hours; what doesn't fit is left out: seeds, then shares")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: as many as there are GPUs, else cores)")
    parser.add_argument("--plan", action="store_true", help="time a few steps and print the plan, no more")
    add_overrides(parser, "schedule.steps=1000, of training")
    parser.add_argument(
        "--pretrain-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="the same of pretraining",
    )
    args = parser.parse_args(argv)

    def run() -> None:
        if args.budget is not None and not args.budget > 0:
            raise UserError(f"--budget is {args.budget:g}; expected hours above 0.")
        with reading_modules():
            from convmae.studies.answer import sentence, table
            from convmae.studies.labelled import TASKS as tasks
            from convmae.studies.page import write_answer
            from convmae.studies.settings import Request, check_request, settle
            from convmae.studies.worth import Study, describe, doubts, measure_seconds, run_study

        request = Request(
            args.root, args.work_dir, args.pictures, not args.no_pretraining, args.encoder, args.further, args.config,
            args.pretrain_config, args.shares, args.seeds, args.rates, args.draws, args.cfg_options, args.pretrain_options,
            args.jobs,
        )  # fmt: skip
        check_request(request)
        with alone_in(args.work_dir):
            start_log(args.work_dir)
            settings = settle(request, tasks[args.task])
            for doubt in doubts(settings):
                log.warning(doubt)
            timed = measure_seconds(settings.plan, settings.devices)
            plan = settings.plan if args.budget is None else settings.plan.fit(timed, 3600 * args.budget)
            log.info("\n".join(describe(settings, plan, timed)))
            if args.plan:
                return
            study = Study(settings, plan, tasks[args.task], timed)
            try:
                run_study(study, settings.devices, write_answer)
            except KeyboardInterrupt:
                raise Interrupted("Stopped; the same command continues.") from None
            write_answer(study)
        log.info(f"{table(study)}\n{sentence(study)}\nwritten: {args.work_dir / 'report' / 'index.html'}")

    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
