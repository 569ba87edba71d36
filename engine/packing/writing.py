"""Shards from a tree of pictures, by several processes; what an interrupted one wrote is not written again."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from convmae.engine.errors import UserError
from convmae.engine.files import save_atomically
from convmae.engine.packing.held import CARRIED, NOTES, remove_begun, remove_notes, shards_begun
from convmae.engine.packing.plan import Plan, ShardPlan
from convmae.engine.packing.shrinking import pack_picture
from convmae.engine.shards.index import INDEX, Index, Shard, digest_of


class Written(NamedTuple):
    """The bytes of all shards, what became of the pictures, why the first can't be read, and how many shards were there."""

    size: int
    done: Counter[str]
    unread: str
    found: int


def pack(root: Path, plan: Plan, output: Path, processes: int) -> Written:
    """Writes the shards of a plan, and their index last, and returns what was done.

    A shard that is there already, of the same pictures, is kept; what an interrupted one began and this plan lacks goes. Raises
    UserError where one can't be written, or a picture is gone.
    """
    try:
        (output / NOTES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output / NOTES} can't be written ({error.strerror}); give another folder.") from None
    for name in shards_begun(output) - {shard.name for shard in plan.shards}:
        (output / name).unlink(missing_ok=True)
    notes = {shard.name: _note(shard, output) for shard in plan.shards}
    missing = [shard for shard in plan.shards if notes[shard.name] is None]
    found = len(plan.shards) - len(missing)
    with _writers(min(processes, len(missing)), output) as pool:
        jobs = {pool.submit(_write, shard, output): shard for shard in missing}
        bar = tqdm(total=sum(len(shard.sources) for shard in missing), desc="pictures", disable=None)
        with bar:
            for job in as_completed(jobs):
                notes[jobs[job].name] = _result(job)
                bar.update(len(jobs[job].sources))
    for name in CARRIED:
        with contextlib.suppress(FileNotFoundError):
            content = (root / name).read_bytes()
            save_atomically(partial(_put, content), output / name)
    columns: list[Any] = [notes[shard.name] for shard in plan.shards]
    index = Index(
        [Shard(shard.name, note["size"], len(shard.sources)) for shard, note in zip(plan.shards, columns, strict=True)],
        [source.inside for shard in plan.shards for source in shard.sources],
        np.array([start for note in columns for start in note["starts"]], dtype=np.int64),
        np.array([size for note in columns for size in note["sizes"]], dtype=np.int64),
        "".join(note["digests"] for note in columns),
        plan.links,
        plan.folders,
        plan.source,
    )
    save_atomically(partial(_put, index.dump()), output / INDEX)
    remove_notes(output)
    done = sum((Counter(note["done"]) for note in columns), Counter[str]())
    unread = next((note["unread"] for note in columns if note["unread"]), "")
    return Written(sum(note["size"] for note in columns), done, unread, found)


def _put(content: bytes, file: Any) -> None:
    file.write(content)


def _note(shard: ShardPlan, output: Path) -> dict[str, Any] | None:
    """Returns what is known of a shard that is there, whole and of these pictures; else None."""
    try:
        note = json.loads((output / NOTES / f"{shard.name}.json").read_bytes())
        whole = note["stamp"] == shard.stamp and (output / shard.name).stat().st_size == note["size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note if whole else None


def _write(shard: ShardPlan, output: Path) -> dict[str, Any]:
    """Writes a shard, then what is known of it, which it returns."""
    starts, sizes, digests, done, unread = [], [], [], Counter[str](), ""

    def write(file: Any) -> None:
        nonlocal unread
        # No sizes or times but those of the content, so that the same pictures make the same bytes.
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
            for source in shard.sources:
                try:
                    packed = pack_picture(source.path, shard.long_side)
                except OSError as error:
                    raise UserError(
                        f"{source.path} can't be read ({error.strerror}): it was there when the pictures were listed. Run this "
                        "again; shards that are whole are kept."
                    ) from None
                member = tarfile.TarInfo(source.member)
                member.size, member.mode = len(packed.content), 0o644
                tar.addfile(member, io.BytesIO(packed.content))
                starts.append(tar.offset - -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
                sizes.append(member.size)
                digests.append(digest_of(packed.content))
                done[packed.done.value] += 1
                unread = unread or packed.reason

    path, note_path = output / shard.name, output / NOTES / f"{shard.name}.json"
    save_atomically(
        partial(_put, json.dumps({"stamp": shard.stamp}).encode()), note_path
    )  # before it: the shard is ours
    save_atomically(write, path)
    columns = {"starts": starts, "sizes": sizes, "digests": "".join(digests), "done": done, "unread": unread}
    note = {"stamp": shard.stamp, "size": path.stat().st_size, **columns}
    save_atomically(partial(_put, json.dumps(note).encode()), note_path)
    return note


def _result(job: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return job.result()
    except BrokenProcessPool:
        raise UserError(
            "A process that packs was ended, as the system does where memory ends; take fewer --processes. Run this again; "
            "shards that are whole are kept."
        ) from None


@contextmanager
def _writers(processes: int, output: Path) -> Iterator[ProcessPoolExecutor]:
    """Gives the processes, which end with this one, and at once where it is stopped."""
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    pool = ProcessPoolExecutor(max(1, processes), context, _start_writer, (stop, os.getpid()))
    try:
        yield pool
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        remove_begun(output)


def _start_writer(stop: Any, parent: int) -> None:
    """Leaves Ctrl-C to the process that started this one, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while not stop.wait(1.0) and os.getppid() == parent:
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
