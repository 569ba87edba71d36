"""A folder of shards that is open: what lies in it, and a picture's bytes by its number."""

from __future__ import annotations

import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.shards.cache import BLOCK, BlockCache
from convmae.engine.shards.index import INDEX, Entry, Shard, digest_of, read_index
from convmae.engine.shards.stores import FarStore, Store

UNFIT = "shards that do not fit their index"
GONE = "shards that can't be read"
_THREADS = 16  # that ask for the sizes of shards
_GO_ON = "A run that this ended goes on with --resume."
_ADVICE = f"Copy the shard again, with its {INDEX}, or pack the pictures anew (tools/pack.py)."


class Shards:
    """The pictures in a folder of shards, by their place in its index.

    Raises FileNotFoundError where there is no index, and UserError where it is none or its shards are not as it says.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        content = store.read_all(INDEX)
        self.index = read_index(content, f"{store.name}/{INDEX}")
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(self._check, self.index.shards):
                pass
        blocks = [-(-shard.size // BLOCK) for shard in self.index.shards]
        self._blocks = dict(zip(self.index.shards, itertools.accumulate(blocks, initial=0), strict=False))
        far = isinstance(store, FarStore)
        self.cache = BlockCache(_key(store.name, content), sum(blocks) * BLOCK if far else 0)

    def read(self, number: int) -> bytes:
        """Returns a picture's bytes. Raises Fault where its shard is gone or has other bytes there."""
        entry = self.index.entry(number)
        content = self._read(entry)
        if digest_of(content) == entry.digest:
            return content
        if self._kept(entry):  # a block may have been damaged on the disk
            for block in self._numbers(entry):
                self.cache.drop(block)
            content = self._read(entry)
        if digest_of(content) != entry.digest:
            found = "ends before it" if len(content) < entry.size else "other bytes"
            raise Fault(
                UNFIT,
                f"{self.store.name}/{entry.shard.name} does not hold {self.index.paths[number]} where {INDEX} says: found "
                f"{found}, expected {entry.size:,} bytes from {entry.start:,} on. {_ADVICE}",
            )
        return content

    def _check(self, shard: Shard) -> None:
        try:
            size = self.store.size(shard.name)
        except FileNotFoundError:
            raise self._gone(shard, "it is not there") from None
        if size != shard.size:
            raise Fault(
                UNFIT,
                f"{self.store.name}/{shard.name} is {'cut off' if size < shard.size else 'another'}: found {size:,} bytes, "
                f"expected {shard.size:,} by {INDEX}. {_ADVICE}",
            )

    def _read(self, entry: Entry) -> bytes:
        try:
            if not self._kept(entry):
                return self.store.read(entry.shard.name, entry.start, entry.start + entry.size)
            numbers = self._numbers(entry)
            content = b"".join(self._block(entry.shard, number) for number in numbers)
        except FileNotFoundError:
            raise self._gone(entry.shard, "it is not there any more") from None
        except OSError as error:
            raise self._gone(entry.shard, error.strerror or str(error)) from None
        except UserError as error:
            raise error if isinstance(error, Fault) else Fault(GONE, f"{error} {_GO_ON}") from None
        start = entry.start - (numbers[0] - self._blocks[entry.shard]) * BLOCK
        return content[start : start + entry.size]

    def _numbers(self, entry: Entry) -> range:
        """Returns the numbers of the blocks that a picture lies in, counted over all shards."""
        first = self._blocks[entry.shard]
        return range(first + entry.start // BLOCK, first + -(-(entry.start + entry.size) // BLOCK))

    def _kept(self, entry: Entry) -> bool:
        numbers = self._numbers(entry)
        return len(numbers) > 0 and numbers[-1] < self.cache.kept

    def _block(self, shard: Shard, number: int) -> bytes:
        start = (number - self._blocks[shard]) * BLOCK
        stop = min(start + BLOCK, shard.size)
        return self.cache.block(number, stop - start, lambda: self.store.read(shard.name, start, stop))

    def _gone(self, shard: Shard, reason: str) -> Fault:
        return Fault(
            GONE,
            f"{self.store.name}/{shard.name} can't be read ({reason}); expected it beside its {INDEX}, to the end of a run. "
            f"Put it back. {_GO_ON}",
        )


def open_store(store: Store) -> Shards | None:
    """Returns the shards that lie there, or None where no index says so."""
    try:
        return Shards(store)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{store.name}/{INDEX} can't be read ({error.strerror or error}).") from None


def _key(name: str, index: bytes) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape") + b"\0" + index, digest_size=12).hexdigest()
