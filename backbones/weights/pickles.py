"""PyTorch's files and other pickles of weights, read without building anything that a file names.

A pickle is a program: it names functions and calls them. Those that weights need are few, and each has a stand-in that checks
what it is given; PyTorch's and numpy's own can be led to write where a file tells them to. The program is run by Python's
interpreter in its Python form, and changes containers and stand-ins alone, so that no file reaches memory by it.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from convmae.backbones.weights.contents import plain
from convmae.backbones.weights.stand_ins import (
    BUILT,
    KNOWN,
    NAMES_ALONE,
    Refused,
    Storage,
    Storages,
    from_bytes,
    not_a_weight,
)

LARGEST_RATIO = 16  # of the bytes that a zip file unpacks to and its own; weights hardly shrink
_COPIED = (str, bytes, bytearray, list, tuple, dict, set)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # opens the row of pickles that PyTorch wrote before 1.6


def read_zip(file: BinaryIO, values: bool = True) -> Any:
    """Returns what PyTorch saved in its zip format; without ``values`` tensors are on the device "meta", and no bytes are read.

    Raises Refused and whatever a damaged file makes Python raise; a checksum that differs is a damage.
    """
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        packed, unpacked = file.seek(0, io.SEEK_END), sum(record.file_size for record in records)
        if unpacked > LARGEST_RATIO * packed:
            raise Refused(f"unpacks to {unpacked} bytes, {unpacked // packed} times its own size; expected weights")
        if not any(record.CRC for record in records):  # as `torch.serialization.set_crc32_options(False)` writes files
            for record in records:
                del record.CRC  # or it would be compared
        root = next(
            (record.filename[: -len("data.pkl")] for record in records if record.filename.endswith("data.pkl")), None
        )
        if root is None:
            raise Refused("is a zip file without the record data.pkl; expected what torch.save writes")
        names = {record.filename for record in records}
        if f"{root}constants.pkl" in names:
            raise Refused("is a TorchScript program, not weights; expected the state dict of its module")
        swapped = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"

        def load(key: str, dtype: torch.dtype, count: int) -> Tensor:
            if not values:
                return torch.empty(count, dtype=dtype, device="meta")
            return from_bytes(archive.read(f"{root}data/{key}"), dtype, count, swapped)

        program = archive.read(f"{root}data.pkl")
        return plain(_Interpreter(io.BytesIO(program), len(program), Storages(load)).load())


def read_pickle(file: BinaryIO, values: bool = True) -> Any:
    """Returns the content of a pickle, as detectron2's of numpy arrays, or of the row of them that PyTorch wrote before 1.6.

    Raises Refused and whatever a damaged file makes Python raise.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    source = _Bounded(file, size)
    first = _Interpreter(source, size).load()
    if first != LEGACY_MAGIC or type(first) is not int:
        return plain(first)
    for _ in ("version", "system"):
        _Interpreter(source, size).load()
    waiting: dict[str, Tensor] = {}

    def load(key: str, dtype: torch.dtype, count: int) -> Tensor:
        announced = count * dtype.itemsize + sum(storage.nbytes for storage in waiting.values())
        if announced > size:
            raise Refused(f"announces storages of {announced} bytes and has {size}")
        waiting[key] = torch.zeros(count, dtype=dtype, device="cpu" if values else "meta")
        return waiting[key]

    content = _Interpreter(source, size, Storages(load)).load()
    if values:
        for key in _Interpreter(source, size).load():  # the storages' bytes follow in this order
            storage = waiting[key]
            count = int.from_bytes(source.read(8), "little")
            if count != len(storage):
                raise Refused(f"has {count} values where it announced {len(storage)}")
            storage.copy_(from_bytes(source.read(count * storage.itemsize), storage.dtype, count, False))
    return plain(content)


class _Bounded:
    """A file that is asked for no more than it holds: what asks for more makes no room for it first."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > self.size:
            raise EOFError("the file is cut off")
        return self.file.read(count)


def _storage_from_bytes(data: object) -> object:
    """A storage in a pickle's own bytes: a file of PyTorch's inside the file."""
    if not isinstance(data, bytes):
        raise Refused("has a storage that is no bytes")
    file = io.BytesIO(data)
    return read_zip(file) if data.startswith(b"PK") else read_pickle(file)


class _Interpreter(pickle._Unpickler):  # the Python form of Python's own
    """Python's interpreter of pickles, which calls stand-ins and changes containers and stand-ins alone."""

    stack: list[Any]
    metastack: list[list[Any]]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, file: Any, size: int, storages: Storages | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self._storages = storages
        self._left = LARGEST_RATIO * (size + 1000)  # values that calls may take in: each copies them

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _NAMED:
            raise not_a_weight(f"{module}.{name}")
        return _NAMED[f"{module}.{name}"]

    def persistent_load(self, given: object) -> Storage:
        if self._storages is None:
            raise Refused("has a storage where none can be")
        return self._storages(given)

    def _call(self) -> None:
        """Calls a stand-in: both REDUCE and NEWOBJ."""
        args = self.stack.pop()
        made = self.stack[-1]
        if not any(made is known for known in _CALLED) or not isinstance(args, tuple):
            raise Refused(f"calls a {type(made).__name__}")
        self._left -= sum(len(one) for one in args if isinstance(one, _COPIED))
        if self._left < 0:
            raise Refused("copies its own parts again and again; expected weights")
        self.stack[-1] = made(*args)

    def _build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], BUILT):
            raise Refused(f"changes a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    def _on(self, kind: type, place: int, run: Callable[[Any], None]) -> None:
        """Runs a command that fills a container, unless it is none; ``place`` counts from the top of the stack."""
        target = self.stack[-place] if place else self.metastack[-1][-1]
        if not isinstance(target, kind):
            raise Refused(f"fills a {type(target).__name__}")
        run(self)

    def _read_bytearray(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _refuse(self) -> None:
        raise Refused("has a command that weights don't need")

    _plain: ClassVar[dict[int, Any]] = pickle._Unpickler.dispatch
    dispatch: ClassVar[dict[int, Any]] = {
        **_plain,
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: _build,
        pickle.BYTEARRAY8[0]: _read_bytearray,
        **dict.fromkeys(
            (code[0] for code in (pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST, pickle.EXT1, pickle.EXT2, pickle.EXT4)),
            _refuse,
        ),
        pickle.APPEND[0]: lambda self, run=_plain[pickle.APPEND[0]]: self._on(list, 2, run),
        pickle.APPENDS[0]: lambda self, run=_plain[pickle.APPENDS[0]]: self._on(list, 0, run),
        pickle.SETITEM[0]: lambda self, run=_plain[pickle.SETITEM[0]]: self._on(dict, 3, run),
        pickle.SETITEMS[0]: lambda self, run=_plain[pickle.SETITEMS[0]]: self._on(dict, 0, run),
        pickle.ADDITEMS[0]: lambda self, run=_plain[pickle.ADDITEMS[0]]: self._on(set, 0, run),
    }


_NAMED = {**KNOWN, "torch.storage._load_from_bytes": _storage_from_bytes}
_CALLED = [known for known in _NAMED.values() if callable(known) and known not in NAMES_ALONE]
