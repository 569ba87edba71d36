"""Where shards lie: in a local folder, or behind an address that fsspec opens."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from convmae.engine.errors import UserError

OPEN = 64  # shards that a process keeps open at a time
TRIES = 3  # of a read over the network that fails in a way that may pass
_PAUSE = 1.0  # seconds before the second try
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp"}
_PACKAGES["https"] = _PACKAGES["http"]
# Errors by which packages say that nobody told them who is asking, by the names of their classes.
_CREDENTIALS = ("Credential", "Permission", "Auth", "Forbidden", "Unauthorized", "GatedRepo", "Token")


class Store(Protocol):
    """A folder of files, whatever it lies on. All raise FileNotFoundError for a file that is not there."""

    name: str

    def size(self, file: str) -> int:
        """Returns a file's bytes."""

    def read(self, file: str, start: int, stop: int) -> bytes:
        """Returns a part of a file, shorter where the file ends before."""

    def read_all(self, file: str) -> bytes:
        """Returns all of a file."""


class LocalStore:
    """A folder of this machine. Its shards stay open, for processes forked from this one, too: each read says its place."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = str(folder), folder
        self._opened = lru_cache(OPEN)(_Opened)

    def size(self, file: str) -> int:
        return os.stat(self.folder / file).st_size

    def read(self, file: str, start: int, stop: int) -> bytes:
        opened = self._opened(f"{self.name}/{file}")  # held here, it is not closed by another thread's reading
        parts = []
        while start < stop and (part := os.pread(opened.descriptor, stop - start, start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def read_all(self, file: str) -> bytes:
        return (self.folder / file).read_bytes()


class _Opened:
    """A file that is closed once nobody holds it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class FarStore:
    """A folder behind an address, as s3://bucket/folder.

    Raises UserError where the address can't be opened: for want of a package, of credentials, of a network.
    """

    def __init__(self, address: str) -> None:
        self.name = address
        self._opened: tuple[int, Any, str] | None = None

    def size(self, file: str) -> int:
        size = self._ask(lambda system, folder: system.info(f"{folder}/{file}")["size"])
        if not isinstance(size, int):
            raise UserError(f"{self.name}/{file}: the server does not tell its size; expected one that does.")
        return size

    def read(self, file: str, start: int, stop: int) -> bytes:
        content: bytes = self._ask(lambda system, folder: system.cat_file(f"{folder}/{file}", start=start, end=stop))
        if len(content) > stop - start:
            raise UserError(
                f"{self.name}: the server sends whole files where parts are asked for; expected one that takes ranges. Copy "
                "the shards to another place."
            )
        return content

    def read_all(self, file: str) -> bytes:
        content: bytes = self._ask(lambda system, folder: system.cat_file(f"{folder}/{file}"))
        return content

    def _ask(self, question: Any) -> Any:
        tried = 0
        while True:
            tried += 1
            try:
                return question(*self._system())
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise FileNotFoundError(self.name) from None
            except UserError:
                raise
            except Exception as error:  # each package has its own
                if tried >= TRIES or _is_final(error):
                    raise UserError(self._said(error)) from None
                time.sleep(_PAUSE * 4 ** (tried - 1))

    def _system(self) -> tuple[Any, str]:
        """Returns fsspec's file system and the folder in it; a forked process has its own, as threads don't go along."""
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            self._opened = os.getpid(), *fsspec.url_to_fs(self.name)
        return self._opened[1], self._opened[2].rstrip("/")

    def _said(self, error: Exception) -> str:
        """Returns what is to be told of an error that a package raised."""
        protocol = self.name.partition(":")[0]
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ImportError):
            package = _PACKAGES.get(protocol)
            how = f'pip install {package}, or "convmae[remote]"' if package else "install the package that it names"
            return f"{self.name} takes a package that is not installed ({reason}); {how}."
        if isinstance(error, ValueError) and "rotocol not known" in reason:
            return f"{self.name}: {reason}. Expected a folder, or an address such as s3://, gs://, hf:// or https://."
        if _lacks_credentials(error):
            return (
                f"{self.name} can't be read: {type(error).__name__}: {reason}. Give the credentials as the package of "
                f"{protocol}:// takes them, in its variables or files, or ask for access."
            )
        return f"{self.name} can't be read: {type(error).__name__}: {reason}. See that the address and the network are right."


def _lacks_credentials(error: Exception) -> bool:
    names = [kind.__name__ for kind in type(error).__mro__]
    return any(word in name for name in names for word in _CREDENTIALS) or getattr(error, "status", 0) in (401, 403)


def _is_final(error: Exception) -> bool:
    return isinstance(error, ImportError | ValueError) or _lacks_credentials(error)
