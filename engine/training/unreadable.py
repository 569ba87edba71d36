"""Training pictures that can't be read: another takes the place of each, they are named, and too many of them end a run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mmengine.hooks import Hook

from convmae.engine.errors import UserError
from convmae.engine.faults import SHOWN
from convmae.engine.log import log
from convmae.engine.machine.processes import from_all, tell_all
from convmae.engine.options import DataOptions
from convmae.engine.pictures.reading import Unreadable
from convmae.engine.seeding import SAMPLE, SampleKey, SeededDataset, seed_all

if TYPE_CHECKING:
    from convmae.engine.training.runner import Runner

KEY = "unreadable"  # in a checkpoint's meta
DRAWS = 32  # pictures drawn for one place before the run ends: so many in a row are no accident


class Drawn(NamedTuple):
    """A sample, and why each picture that was drawn before it can't be read, by index."""

    sample: Any
    unread: dict[int, str]


class Batch(NamedTuple):
    """What the model takes, and the pictures in whose place others are in it."""

    content: Any
    unread: dict[int, str]


class SkippingDataset(SeededDataset):
    """A seeded data set that draws another picture where one can't be read, by the seed and the place of the sample alone."""

    def __init__(self, dataset: Any, seed: int, skip: bool) -> None:
        super().__init__(dataset, seed)
        self.draws = DRAWS if skip else 1

    def __getitem__(self, key: SampleKey) -> Drawn:
        unread: dict[int, str] = {}
        for draw in range(self.draws):
            purpose = (SAMPLE, key.epoch, key.index, *[draw] * bool(draw))
            seed_all(self.seed, *purpose)
            index = random.randrange(len(self)) if draw else key.index
            try:
                return Drawn(self.dataset[index], unread)
            except Unreadable as error:
                if self.draws == 1:
                    raise
                unread[index] = str(error)
        raise Unreadable(f"{unread[index]} It is the last of {DRAWS} in a row, each drawn in place of the one before.")

    def why_unread(self, index: int) -> str:
        """Returns why a picture can't be read, or an empty text."""
        try:
            self.dataset[index]
        except Unreadable as error:
            return str(error)
        return ""


def collate_drawn(collate: Callable[[list[Any]], Any], drawn: Sequence[Drawn]) -> Batch:
    """Returns the samples as ``collate`` makes one of them, beside what could not be read."""
    unread = {index: reason for one in drawn for index, reason in one.unread.items()}
    return Batch(collate([one.sample for one in drawn]), unread)


class UnreadHook(Hook):
    """Keeps which pictures of a run could not be read, the same in all processes and in its checkpoints.

    ``known``: why, by name; ``news``: those of this process that the others don't know yet.
    """

    def __init__(self, dataset: SkippingDataset, options: DataOptions) -> None:
        self.dataset, self.share = dataset, options.bad_share
        self.known: dict[str, str] = {}
        self.news: dict[str, str] = {}

    def take(self, batch: Batch) -> Any:
        """Returns what the model takes of a batch, having noted what could not be read."""
        for index, reason in batch.unread.items():
            name = self.dataset.name(index)
            if name not in self.known:
                self.news[name] = reason
        return batch.content

    def tell(self) -> UserError | None:
        """Names the news of all processes, which call it together; returns why the run can't go on where they are too many."""
        found = {name: reason for news in from_all(self.news) for name, reason in news.items()}
        self.news = {}
        for name in sorted(found):
            self.known[name] = found[name]
            log.warning(f"another picture takes the place of one ({len(self.known)} so far): {found[name]}")
        return self._refusal()

    def before_train(self, runner: Runner) -> None:
        if refusal := self._refusal():
            raise refusal

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["meta"][KEY] = {**self.known, **self.news}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Takes over what a checkpoint names and can't be read yet."""
        self.known = tell_all(self._still_unread(checkpoint["meta"].get(KEY)) if runner.rank == 0 else None)

    def _still_unread(self, named: Any) -> dict[str, str]:
        if not isinstance(named, Mapping) or not named:  # a checkpoint of an earlier version has none
            return {}
        places = {self.dataset.name(index): index for index in range(len(self.dataset))}
        reasons = {name: self.dataset.why_unread(places[name]) for name in named if name in places}
        unread = {name: reason for name, reason in reasons.items() if reason}
        log.info(f"{len(unread)} of {len(named)} pictures that could not be read still can't")
        return unread

    def _refusal(self) -> UserError | None:
        if len(self.known) <= self.share * len(self.dataset):
            return None
        reasons = list(self.known.values())
        more = [f"(and {len(reasons) - SHOWN} more; tools/check_data.py lists all)"] * (len(reasons) > SHOWN)
        return UserError(
            "\n".join(
                [
                    f"{len(reasons)} of {len(self.dataset)} training pictures can't be read, more than the share of "
                    f"data.bad_share={self.share:g}. Mend or remove them, or raise that, and go on with --resume.",
                    *reasons[:SHOWN],
                    *more,
                ]
            )
        )
