"""The curves of a run as TensorBoard reads them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard import SummaryWriter

from convmae.engine.errors import unwritable


class Curves:
    """TensorBoard's file of a run, whose errors are UserErrors where the run writes to it.

    TensorBoard writes in a thread, which besides would print its traceback.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self.folder, self.told = folder, threading.excepthook
        threading.excepthook = self._hear
        try:
            self.writer = SummaryWriter(str(folder), purge_step=first)
        except OSError as error:
            threading.excepthook = self.told
            raise unwritable(folder / "events", error) from error

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Adds the values of a step. Raises UserError where they, or some before, can't be written."""
        try:
            for name, value in row.items():
                self.writer.add_scalar(name, value, step)
        except OSError as error:
            raise unwritable(self.folder / "events", error) from error

    def close(self) -> None:
        """Writes what is left. Raises UserError where that can't be."""
        try:
            self.writer.close()
        except OSError as error:
            raise unwritable(self.folder / "events", error) from error
        finally:
            threading.excepthook = self.told

    def _hear(self, args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError) or not isinstance(args.thread, _AsyncWriterThread):
            self.told(args)
