"""What ends a run and is no defect of the program: what its user is told, in one message, and torchrun with them."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import time
from pathlib import Path

from convmae.engine.errors import UserError
from convmae.engine.log import process_rank
from convmae.engine.text import visible

GO_ON = "A training run goes on with --resume."
_LESS_MEMORY = (
    "A GPU needs less memory with runtime.checkpoint_activations=true, with --amp, and with a smaller data.batch_size, or the "
    "same in parts: data.accumulate=4."
)
_NO_MEMORY = (
    "Take fewer data.workers, a smaller data.batch_size or the same in parts (data.accumulate=4), or ask for more."
)
_ADVICE = {  # by error number
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room; a training run goes on with --resume."),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT),
        "See to the disk; a training run goes on with --resume.",
    ),
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f); a training run goes on with --resume.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n) or take fewer data.workers; a training run goes on with --resume.",
}

# What PyTorch says: of another process that is gone, of /dev/shm, and of files that can't be opened any more.
_LOST = (
    r"closed by|likely closed|pair closure|reset by peer|Broken pipe|Connection refused|Timed out|remote process exited"
)
_NO_SHARED_MEMORY = (
    r"unable to (open|allocate|write|mmap|resize)\b.*shared memory|</torch_\d+|/dev/shm/.*No space left on device"
)
_NO_HANDLES = "Too many open files|received 0 items of ancdata"


class EndedElsewhereError(Exception):
    """The run ended because another process couldn't go on, which says why."""


def explain(error: BaseException) -> str | None:
    """Returns what a user is told of an error that the program can't help, or None for a defect, whose traceback is kept."""
    said = str(error)
    if isinstance(error, UserError) and not said.startswith("Caught "):
        return said

    from torch import OutOfMemoryError

    from convmae.backbones import CheckpointError

    if isinstance(error, UserError | CheckpointError):
        # From a loader process the message comes with that process's traceback before it.
        return said.rpartition(f"{type(error).__name__}: ")[2].strip()
    if isinstance(error, OutOfMemoryError):
        return f"{said}\n{_LESS_MEMORY}"
    if is_lost_process(error) and "Timed out" in said:
        return (
            f"Ended, because another process has not answered in time ({without_frames(error)}): it hangs, or works alone for "
            f"longer than runtime.timeout, which is in seconds. {GO_ON}"
        )
    if is_lost_process(error):
        reason = f" ({without_frames(error)})" if said else ""
        return f"Ended, because another process did or no longer answers; its message says why{reason}."
    number = _error_number(error)
    asked = re.search(r"allocate memory: you tried to allocate (\d+) bytes", said)
    if isinstance(error, MemoryError) or asked or number == errno.ENOMEM or re.match(r"Caught \w*MemoryError in", said):
        where = " in a loader process" if said.startswith("Caught ") else ""
        size = f" ({int(asked[1]) / 2**30:.1f} GiB were asked for)" if asked else ""
        return f"Memory ended{where}{size}. {_NO_MEMORY} {GO_ON}"
    if isinstance(error, RuntimeError) and re.search(_NO_SHARED_MEMORY, said):
        return f"Shared memory (/dev/shm) ended. Enlarge it (docker: --shm-size) or take fewer data.workers. {GO_ON}"
    if number in _ADVICE:
        reason = said if isinstance(error, OSError) and error.errno else f"Loading failed: {os.strerror(number)}"
        return f"{reason}. {_ADVICE[number]}"
    return None


def without_frames(error: BaseException) -> str:
    """Returns what an error of PyTorch's says in one line, without the C++ functions that led to it."""
    return " ".join(re.split(r"\n(?:Exception raised from|C\+\+ CapturedTraceback|frame #)", str(error))[0].split())


def is_lost_process(error: BaseException) -> bool:
    """Whether an error only says that another process of the run is gone."""
    if isinstance(error, EndedElsewhereError):
        return True
    said = str(error)
    if re.search(_LOST, said) is None:
        return False

    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in said)


def tell(error: BaseException) -> bool:
    """Prints why a tool ends, once, and returns whether that is all; False: a defect, whose traceback is to follow."""
    message, many = explain(error), int(os.environ.get("WORLD_SIZE", "1")) > 1
    if (
        many
    ):  # the process that failed speaks first, and alone, of several the first: torchrun ends the others meanwhile
        time.sleep(6 if is_lost_process(error) else 3 if process_rank() else 0)
    said = visible(message or f"{type(error).__name__}: {error}")
    if message or many:
        print(f"error{f' in process {process_rank()}' if many else ''}: {said}", file=sys.stderr, flush=True)
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")  # where torchrun looks for what its own summary is to name
    if place:
        content = {"message": {"message": said, "extraInfo": {"timestamp": int(time.time())}}}
        Path(place).write_text(json.dumps(content), encoding="utf-8")
    return message is not None


def _error_number(error: BaseException) -> int:
    """Returns the number of a system's error, also of one that PyTorch made again from a loader process's text; 0: none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    said = str(error)
    if isinstance(error, RuntimeError) and re.search(_NO_HANDLES, said):
        return errno.EMFILE
    found = re.search(r"^\w*Error: \[Errno (\d+)\]", said, re.M) if said.startswith("Caught ") else None
    return int(found[1]) if found else 0
