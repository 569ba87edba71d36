"""What was read over a network, kept on a local disk up to a size.

Kept are the first bytes of a data set, as many as there is room for, and nothing takes their place: of pictures that are drawn
in a new order each epoch no other choice is found more often. So processes need not tell one another what is there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault

BLOCK = 2**22  # bytes that are fetched and kept together
FOLDER, SIZE = "CONVMAE_SHARD_CACHE", "CONVMAE_SHARD_CACHE_GB"
FULL = "disks without room for the cache of shards"
_DEFAULT = 20.0  # GB
_RESERVED, _USED = "reserved", "used"


def cache_folder() -> Path:
    """Returns where blocks are kept: as the variable says, else under XDG_CACHE_HOME or ~/.cache."""
    given, home = os.environ.get(FOLDER, ""), os.environ.get("XDG_CACHE_HOME", "")
    if given:
        return Path(given)
    return Path(home if os.path.isabs(home) else os.path.expanduser("~/.cache")) / "convmae" / "shards"


def cache_bytes() -> int:
    """Returns how many bytes may be kept, of all data sets together. Raises UserError for a size that is none."""
    given = os.environ.get(SIZE, "") or str(_DEFAULT)
    try:
        size = float(given)
    except ValueError:
        size = -1.0
    if not 0 <= size < 1e9:
        raise UserError(f"{SIZE} is {given!r}; expected how many GB of shards to keep, or 0 for none.")
    return round(size * 1e9)


class BlockCache:
    """The blocks of one data set, of ``total`` bytes, that are kept: those whose number is below ``kept``.

    ``key`` tells data sets apart. Of all together no more than ``cache_bytes`` are kept: what no process uses makes room, what
    was used last at the last. Raises UserError where the disk hasn't as much room.
    """

    def __init__(self, key: str, total: int) -> None:
        self.folder = cache_folder() / key
        self.kept, self._use = 0, -1
        if total and (bound := cache_bytes()):
            try:
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                with _alone(self.folder.parent):
                    self.folder.mkdir(exist_ok=True)
                    self.kept = self._reserve(total, bound) // BLOCK
            except OSError as error:
                raise self._no_room(error) from None

    def block(self, number: int, size: int, fetch: Callable[[], bytes]) -> bytes:
        """Returns a block of ``size`` bytes, which ``fetch`` reads where it isn't there yet."""
        path = self.folder / f"{number:08d}"
        try:
            content = path.read_bytes()
            if len(content) == size:
                return content
        except FileNotFoundError:
            pass
        content = fetch()
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with contextlib.suppress(FileNotFoundError):  # the folder was removed: it is only a cache
                try:
                    partial.write_bytes(content)
                    os.replace(partial, path)
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            raise self._no_room(error) from None
        return content

    def drop(self, number: int) -> None:
        """Forgets a block, as one that was damaged."""
        (self.folder / f"{number:08d}").unlink(missing_ok=True)

    def __del__(self) -> None:
        if self._use >= 0:
            os.close(self._use)

    def _reserve(self, total: int, bound: int) -> int:
        """Returns how many bytes this data set may keep, having removed what of others takes their place."""
        # Held as long as this process and those forked from it last.
        self._use = os.open(self.folder / _USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.utime(self.folder / _USED)
        alone = _locked(self._use)
        reserved = self.folder / _RESERVED
        if not alone and reserved.is_file():
            fcntl.flock(self._use, fcntl.LOCK_SH)
            return _number(reserved)
        taken, idle = 0, list[tuple[float, Path]]()
        for other in self.folder.parent.iterdir():
            if other != self.folder and (other / _USED).is_file():
                if _in_use(other):
                    taken += _number(other / _RESERVED)
                else:
                    idle.append(((other / _USED).stat().st_mtime, other))
        share = min(-(-total // BLOCK) * BLOCK, max(0, bound - taken) // BLOCK * BLOCK)
        left = bound - taken - share - sum(_size(other) for _, other in idle)
        for _, other in sorted(idle):
            if left >= 0:
                break
            left += _size(other)
            shutil.rmtree(other)
        for path in self.folder.iterdir():
            if path.name.endswith(".part") or (path.name.isdigit() and int(path.name) >= share // BLOCK):
                path.unlink()
        room = shutil.disk_usage(self.folder).free + _size(self.folder)
        if room < share:
            raise OSError(errno.ENOSPC, f"{room / 1e9:.1f} GB are free, and {share / 1e9:.1f} GB may be kept")
        reserved.write_text(str(share), encoding="utf-8")
        fcntl.flock(self._use, fcntl.LOCK_SH)
        return share

    def _no_room(self, error: OSError) -> Fault:
        return Fault(
            FULL,
            f"{self.folder} can't keep what is read of shards ({error.strerror or error}); make room, give another folder by "
            f"{FOLDER}, or fewer GB by {SIZE} (0 keeps none).",
        )


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name.isdigit())


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _in_use(folder: Path) -> bool:
    descriptor = os.open(folder / _USED, os.O_RDWR | os.O_CLOEXEC)
    try:
        return not _locked(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from reserving meanwhile."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
