"""What the scripts fuzz_*.py share: changed files are read in a process of its own, which a memory fault would end."""

from __future__ import annotations

import ast
import faulthandler
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from convmae.backbones import CheckpointError
from convmae.engine.errors import UserError
from convmae.engine.machine.memory import peak_bytes

SECONDS = 60  # for a file, before the process is ended for hanging
_WORDS = (
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\0",
    b"\0\0\0\x80",
    b"\0\1\0\0",
    b"\xff\xff",
)


def run(read: Callable[[random.Random], object], whole: Callable[[], object]) -> None:
    """Calls ``read``, which changes a file and reads it, COUNT times from SEED, the arguments of the script.

    Before it calls ``whole``, which reads the files as they are: where these are refused, refusals tell nothing.
    Exit status 0 if each was read or refused by a UserError; prints how many of each and the memory at most in MB.
    """
    faulthandler.enable()
    count, draw, fates = int(sys.argv[1]), random.Random(int(sys.argv[2])), Counter[str]()
    whole()
    for _ in range(count):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            read(draw)
            fates["read"] += 1
        except (UserError, CheckpointError):
            fates["refused"] += 1
    faulthandler.cancel_dump_traceback_later()
    print(dict(fates), peak_bytes(torch.device("cpu")) // 2**20, "MB")


def check_script(script: Path, count: int, seed: int, megabytes: int) -> None:
    """Runs a script; fails where it does, where it refused nearly all or nothing, and where it took more memory."""
    words = [sys.executable, str(script), str(count), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    fates, memory = done.stdout.rstrip().rpartition("\n")[2].split("} ")
    tally = ast.literal_eval(fates + "}")
    assert tally.get("read", 0) >= count / 10, tally
    assert tally.get("refused", 0) > 0, tally
    assert int(memory.split()[0]) < megabytes  # of which most are the libraries'


def change(raw: bytes, draw: random.Random) -> bytes:
    """Returns a file's bytes with a few of them changed, cut out, doubled or put in, most of them near its beginning."""
    changed = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        place = draw.randrange(min(len(changed), draw.choice((64, 512, 2**20))) + 1)
        match draw.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                changed[place : place + 1] = (
                    bytes([changed[place] ^ 1 << draw.randrange(8)]) if place < len(changed) else b""
                )
            case 2:
                del changed[place : place + draw.choice((1, 2, 4, 16, 256))]
            case 3:
                start = draw.randrange(len(changed) + 1)
                changed[place:place] = changed[start : start + draw.randrange(1, 40)]
            case 4:
                del changed[place:]
            case _:
                word = draw.choice(_WORDS)
                changed[place : place + len(word)] = word
        changed = changed or bytearray(raw)
    return bytes(changed)
