"""Importing this has Ctrl-C end a program at once with one line and status 130: for tools, until `run_tool` takes over.

Reading PyTorch takes seconds, in which a KeyboardInterrupt would come out of someone else's module, or be lost in it.
"""

from __future__ import annotations

import os
import signal
from typing import Any


def _stop(*_: Any) -> None:
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":  # of several processes one speaks
        os.write(2, b"Stopped.\n")
    os._exit(130)  # no exception, which whatever is being read could turn into another; nothing is open yet


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as after `nohup`
    signal.signal(signal.SIGINT, _stop)
