"""Pack a folder of pictures, or of class folders, as tar shards with an index: few large files in place of many small ones.

python tools/pack.py data/images data/images_shards
python tools/pack.py data/imagenet data/imagenet_256 --long-side 256 --processes 8

What takes the folder takes the shards, too, and their address where they lie behind one: data.root=s3://bucket/images_shards.
The same pictures come in the same order. Interrupted and run again, it goes on with the shards that are not there yet.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from convmae.engine.commands.cli import run_tool
from convmae.engine.errors import UserError
from convmae.engine.machine.interrupts import reading_modules

PER_SHARD = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of pictures, nested as it may be")
    parser.add_argument("output", type=Path, help="folder for the shards and their index")
    parser.add_argument(
        "--long-side", type=int, default=0, help="cut larger JPEG and PNG pictures to so many pixels (default 0: none)"
    )
    parser.add_argument(
        "--per-shard", type=int, default=PER_SHARD, help=f"most pictures of a shard, or 1 GiB (default {PER_SHARD})"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=cores, help=f"that write at a time (default {cores})")
    parser.add_argument("--overwrite", action="store_true", help="remove shards of other pictures from the output")
    args = parser.parse_args(argv)
    return run_tool(lambda: _pack(args))


def _pack(args: argparse.Namespace) -> None:
    for name, low in (("long_side", 0), ("per_shard", 1), ("processes", 1)):
        if getattr(args, name) < low:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected {low} or more.")
    with reading_modules():
        from convmae.engine.commands.given_pictures import say
        from convmae.engine.packing.held import look, refuse_foreign, remove_held, remove_notes
        from convmae.engine.packing.plan import make_plan
        from convmae.engine.packing.writing import pack
        from convmae.engine.run_files import only_one
        from convmae.engine.shards.places import place

    root, output = place(args.folder), args.output
    ends = [os.path.realpath(one) for one in (output, root)]
    if os.path.commonpath(ends) in ends:
        raise UserError(f"{output} and {root} lie in one another; give a folder beside the pictures for the shards.")
    plan = make_plan(root, args.long_side, args.per_shard, say)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} can't be written ({error.strerror}); give another folder.") from None
    with only_one(output, "output"):
        held = look(output)
        if held.source == plan.source and not args.overwrite:
            remove_notes(output)
            print(f"{output} holds the shards of these pictures already")
            return
        if held.source is not None and not args.overwrite:
            raise UserError(f"{output} holds shards of other pictures or options; give another folder, or --overwrite.")
        refuse_foreign(output, held, root)
        if args.overwrite:
            remove_held(output, held)
        done = pack(root, plan, output, args.processes)
    pictures = sum(done.done.values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(done.done.items()))
    kept = f" ({done.found} of them were there)" if done.found else ""
    print(f"{pictures:,} pictures in {len(plan.shards)} shards{kept}, {done.size / 1e6:,.1f} MB: {kinds}")
    if done.unread:
        print(f"note: {done.unread}", file=sys.stderr)
    print(f"written: {output}")
    print(f"to pretrain: data.root={output}")


if __name__ == "__main__":
    sys.exit(main())
