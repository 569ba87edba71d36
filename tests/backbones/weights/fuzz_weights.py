"""Reads weight files that were changed at random: python fuzz_weights.py COUNT SEED (see tests/fuzzing.py)."""

from __future__ import annotations

import io
import pickle
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
import fuzzing

from convmae.backbones.weights.weight_files import read_weights

STATE = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.ones(3), "count": torch.tensor(3)}
# What a file can be made to name, with the commands that call or change it.
SNIPPETS = [
    b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8K\x00K\x01tR",
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.numeric\n_frombuffer\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_qtensor\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"ctorch\nTensor\n",
    b"ctorch\nUntypedStorage\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nLongStorage\n",
    *(
        bytes([code])
        for code in pickle.REDUCE + pickle.BUILD + pickle.NEWOBJ + pickle.BINPERSID + pickle.TUPLE2 + pickle.DUP
    ),
    b"J\xff\xff\xff\x7f",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"r\xff\xff\xff\x7f",
    b"B\xff\xff\xff\x7f",
    b"\x96\xff\xff\xff\xff\xff\x00\x00\x00",
]


def programs() -> list[tuple[bytes, Callable[[bytes], bytes]]]:
    """Returns pickles of each kind of file, and what makes a file of a changed one."""
    arrays = {name: value.numpy() for name, value in STATE.items()}
    found: list[tuple[bytes, Callable[[bytes], bytes]]] = [
        (pickle.dumps({"model": arrays, "best": np.float64(0.5)}, protocol), bytes) for protocol in (2, 4, 5)
    ]
    found.append((pickle.dumps({"model": STATE}, 4), bytes))
    whole = {"model": STATE, "best": np.float64(0.5), "log": arrays}
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(whole, file, _use_new_zipfile_serialization=zipped)
        if not zipped:
            found.append((file.getvalue(), bytes))
            continue
        with zipfile.ZipFile(file) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        program = next(name for name in records if name.endswith("data.pkl"))

        def pack(changed: bytes, records: dict[str, bytes] = records, program: str = program) -> bytes:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for name, content in {**records, program: changed}.items():
                    archive.writestr(name, content)
            return packed.getvalue()

        found += [(records[program], pack), (file.getvalue(), bytes)]
    return found


def change(program: bytes, draw: random.Random) -> bytes:
    """Returns a pickle with a few bytes flipped, cut out, doubled or put in."""
    changed = bytearray(program)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        place = draw.randrange(len(changed) + 1)
        match draw.randrange(7):
            case 0:
                changed[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del changed[place : place + draw.choice((1, 2, 4, 16))]
            case 2:
                start = draw.randrange(len(changed) + 1)
                changed[place:place] = changed[start : start + draw.randrange(1, 40)]
            case 3:
                changed[place:place] = draw.choice(SNIPPETS)
            case 4 | 5 if place < len(changed):
                changed[place] ^= 1
            case _:
                changed[place : place + 4] = draw.choice((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"))
        changed = changed or bytearray(program)
    return bytes(changed)


def main() -> None:
    known = programs()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "changed.pth")

        def read(draw: random.Random) -> None:
            program, pack = draw.choice(known)
            take(pack(change(program, draw)))

        def take(raw: bytes) -> None:
            path.write_bytes(raw)
            read_weights(path)

        fuzzing.run(read, lambda: [take(pack(program)) for program, pack in known])


if __name__ == "__main__":
    main()
