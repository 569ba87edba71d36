"""Whether label maps and the class list fit, and what may be meant where they don't, by the values found in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convmae.engine.faults import SHOWN, Effect, Fault
from convmae.segmentation.data.class_list import BACKGROUND, OTHER, VOID, ClassList
from convmae.segmentation.data.found import Found
from convmae.segmentation.data.layout import IGNORE

_LISTED = 8  # values that one message tells
_MANY = 8  # so many labels beyond the list are no slip of numbering
_FAR = 200  # labels from here on are taken for a mark, such as 254
_CITYSCAPES = (19, 33)  # classes that are trained, and the largest of the labels from which they are chosen


def check_fit(
    found: Found, classes: ClassList, reduce_zero_label: bool, training: Found | None = None, whole: bool = True
) -> None:
    """Adds to a split's faults, before those of single files, in which ways its label maps and the class list disagree.

    ``training`` is the other split where ``found`` is the validation; ``whole``: all label maps were looked at, so that what is
    in none of them is nowhere.
    """
    if not found.maps:
        return
    fit = _Fit(found, classes, int(reduce_zero_label), whole)
    faults = fit.beyond()
    if found.good and fit.labelled == 0:
        faults += fit.all_ignored()
    elif found.good and fit.labelled == 1:
        faults += fit.one_class()
    elif found.good:
        if whole:
            faults += fit.absent() if found.name == "training" else fit.untested(training)
        faults += fit.mostly_ignored()
    if found.name == "training":
        faults += _void_names(classes)
    if training:
        faults += _recoloured(found, training) + _of_other_pictures(found, training)
    found.faults[:0] = faults


class _Fit:
    """The values of a split's label maps beside the class list."""

    def __init__(self, found: Found, classes: ClassList, first: int, whole: bool) -> None:
        self.found, self.classes, self.first, self.whole = found, classes, first, whole
        self.number = len(classes.names)
        self.values = np.flatnonzero(found.values).tolist()  # that occur
        self.zero, self.ignore = bool(found.values[0]), bool(found.values[IGNORE])
        self.pixels = found.values[first : first + self.number]
        self.labelled = int(np.count_nonzero(self.pixels))  # classes
        self.absent_names = [name for name, pixels in zip(classes.names, self.pixels, strict=True) if not pixels]
        self.maps = f"{found.maps} label maps" if whole else f"{found.maps} label maps that were looked at"

    def beyond(self) -> list[Fault]:
        """The label maps that hold labels beyond the list are named one by one; this says what their values look like."""
        beyond = [value for value in self.values if self.first + self.number <= value < IGNORE]
        if not beyond:
            return []
        plain = [value for value in self.values if value < IGNORE]
        levels = next((known for known in (self.values, plain) if len(known) <= self.number + self.first), [])
        mark = beyond[0] if len(beyond) == 1 and beyond[0] >= _FAR else None
        if self.first == 0 and not self.zero and beyond == [self.number]:
            advice = "0 never occurs: if it means other, set data.reduce_zero_label=true, and 1 is the first class."
        elif self.number == _CITYSCAPES[0] and beyond[-1] <= _CITYSCAPES[1]:
            advice = (
                "They may be Cityscapes' ids: expected its train ids (labelTrainIds), and data.reduce_zero_label=false."
            )
        elif levels and not (mark and 1 in plain):
            start = 0 if self.zero else self.first
            to = _list(range(start, start + len(levels)))
            advice = f"They don't count up by one (grey levels to look at?): write {_list(levels)} as {to}."
        elif len(beyond) >= _MANY and self.found.most_values > self.number + 1:
            advice = (
                f"One label map alone holds {self.found.most_values} values: it may be a grey picture, or have been resized "
                "smoothly or saved as JPEG. Export label maps with one class index a pixel."
            )
        elif mark:
            advice = f"If {mark} marks pixels to ignore, write it as {IGNORE}."
        else:
            return []
        message = f"{self.found.labels}: {self.maps} hold the labels {_list(self.values)}, for {self.number} classes. {advice}"
        return [Fault("splits whose labels are numbered in another way", message)]

    def all_ignored(self) -> list[Fault]:
        """No pixel is of a class."""
        why = []
        if self.ignore:
            why.append(f"{IGNORE} is always ignored")
        if self.zero:
            why.append("0 is ignored as data.reduce_zero_label=true says")
        if self.zero and self.ignore:
            advice = (
                f"If 0 is background and {IGNORE} the object, write {IGNORE} as 1, name both in the class list, background "
                "first, and set data.reduce_zero_label=false."
            )
        else:
            advice = f"Expected the labels {self.first} to {self.first + self.number - 1} of the classes."
        message = (
            f"{self.found.labels}: every pixel of {self.maps} is ignored. They hold {_list(self.values)}: "
            f"{', and '.join(why)}. {advice}"
        )
        return [Fault("splits without a labelled pixel", message)]

    def one_class(self) -> list[Fault]:
        """A segmenter of one class has nothing to tell apart, and the scores of a perfect one are those of a constant."""
        name = self.classes.names[int(np.flatnonzero(self.pixels)[0])]
        training = self.found.name == "training"
        never_meant = self.whole and (training or (self.number == 2 and self.ignore))
        so = "there is nothing to tell it from" if training else "even a mIoU of 1 says nothing"
        message = (
            f"{self.found.labels}: {self.maps} hold {_list(self.values)}: of the {self.number} classes {name!r} alone has "
            f"pixels, so that {so}.{self._about_zero()}{self._about_ignore()}"
        )
        effect = Effect.STOPS if never_meant else Effect.DOUBTFUL
        return [Fault("splits with pixels of one class alone", message, effect)]

    def absent(self) -> list[Fault]:
        """Classes that the training teaches nothing of."""
        if not self.absent_names:
            return []
        kind, effect, advice = "lists with classes that no label map holds", Effect.DOUBTFUL, ""
        names, last = self.classes.names, self.first + self.number - 1
        if self.first and self.zero and not self.found.values[last] and not self.classes.numbered:
            advice = (
                f" 0 occurs, and {last}, the last label, does not: if {names[0]!r} is label 0, set "
                f"data.reduce_zero_label=false; if it is label 1, say so in the list, as in '1 {names[0]}'."
            )
            if names[0].casefold() in BACKGROUND | OTHER | VOID:
                kind, effect = "lists that begin with what label 0 is called", Effect.STOPS
        elif len(self.absent_names) == 1:
            advice = self._about_ignore()
        if self.classes.source.startswith("data.classes=ade20k") and self.zero and not (self.first or self.ignore):
            advice += f" In ADE20K's label maps 0 means other, not {names[0]!r}: then set data.reduce_zero_label=true."
        message = f"{self._without(self.absent_names)}: not learnt.{advice}"
        return [Fault(kind, message, effect)]

    def untested(self, training: Found | None) -> list[Fault]:
        """Classes that the validation tells nothing of, and those that it alone has."""
        faults = []
        if training and training.maps:
            learnt = training.values[self.first : self.first + self.number]
            alone = [
                name
                for name, there, here in zip(self.classes.names, learnt, self.pixels, strict=True)
                if here and not there
            ]
            if alone:
                message = (
                    f"{self.found.labels} holds {_quote(alone)}, {training.labels} does not: not learnt, but counted in the "
                    "scores."
                )
                faults.append(Fault("lists with classes of the validation alone", message, Effect.DOUBTFUL))
            faults += self.shifted(training)
        if self.absent_names:
            message = f"{self._without(self.absent_names)}: not tested."
            faults.append(Fault("lists with classes that no label map holds", message, Effect.NOTE))
        return faults

    def shifted(self, training: Found) -> list[Fault]:
        """Of two splits in which all labels are in order, one may be numbered from 0 and the other from 1."""
        last = self.first + self.number - 1
        ends = {(bool(one.values[0]), bool(one.values[last])): one.labels for one in (training, self.found)}
        if not self.first or ends.keys() != {(True, False), (False, True)}:
            return []
        message = (
            f"0 and not {last}, the last label, occurs in {ends[True, False]}, {last} and not 0 in {ends[False, True]}: is one "
            "numbered from 0, the other from 1?"
        )
        return [Fault("splits that are numbered otherwise than the other", message, Effect.DOUBTFUL)]

    def mostly_ignored(self) -> list[Fault]:
        """More is ignored than learnt."""
        total = int(self.found.values.sum())
        zero, ignore = (int(self.found.values[value]) for value in (0, IGNORE))
        parts = [(0, zero)] * self.first + [(IGNORE, ignore)]
        if 2 * sum(count for _, count in parts) <= total:
            return []
        shares = " and ".join(f"{100 * count / total:.1f} % are {value}" for value, count in parts if count)
        message = (
            f"{self.found.labels}: more pixels of {self.maps} are ignored than not: {shares}."
            f"{self._about_zero()}{self._about_ignore()}"
        )
        return [Fault("splits most of whose pixels are ignored", message, Effect.DOUBTFUL)]

    def _about_zero(self) -> str:
        """What may be meant where label 0 is ignored."""
        if not (self.first and self.zero):
            return ""
        named = f"name it first in {self.classes.source}, as in '0 background', and " if self.classes.numbered else ""
        return f" If label 0 is a class, as background often is, {named}set data.reduce_zero_label=false."

    def _about_ignore(self) -> str:
        """What may be meant by IGNORE where there are classes without a pixel."""
        if not (self.ignore and self.absent_names):
            return ""
        label = self.first + self.classes.names.index(self.absent_names[0])
        return f" {IGNORE} is always ignored: if it marks {self.absent_names[0]!r}, write it as {label}."

    def _without(self, names: Sequence[str]) -> str:
        return (
            f"{self.found.labels}: {self.maps} have no pixel of {len(names)} of the {self.number} classes of "
            f"{self.classes.source} ({_quote(names)})"
        )


def _recoloured(found: Found, training: Found) -> list[Fault]:
    """The palettes of two splits, each the same in all its label maps, may number the same colours in two ways."""
    for value in sorted(found.colours.keys() & training.colours.keys()):
        (colour, path), (known, other) = found.colours[value], training.colours[value]
        if colour != known:
            message = (
                f"{path} shows label {value} in the colour {colour}, {other} of the training in {known}: is one split numbered "
                "otherwise than the other?"
            )
            return [Fault("splits with another palette than the other", message, Effect.DOUBTFUL)]
    return []


def _of_other_pictures(found: Found, training: Found) -> list[Fault]:
    """One folder of label maps can hardly belong to two of pictures; names such as 000.png are in both splits."""
    if found.labels.resolve() != training.labels.resolve() or found.images.resolve() == training.images.resolve():
        return []
    message = (
        f"the label maps of training and validation are those of {found.labels}, the pictures are those of {training.images} "
        f"and of {found.images}; look at data.train_labels and data.val_labels."
    )
    return [Fault("splits of other pictures with the same label maps", message, Effect.DOUBTFUL)]


def _void_names(classes: ClassList) -> list[Fault]:
    names = [name for name in classes.names if name.casefold() in VOID]
    if not names:
        return []
    message = (
        f"{classes.source} has the class {_quote(names)}, which is learnt and counted as any other. If it means nothing, write "
        f"its pixels as {IGNORE} and take it out of the list."
    )
    return [Fault("lists with a class that is called as if it were none", message, Effect.DOUBTFUL)]


def _list(values: Sequence[int]) -> str:
    """Returns values as "0, 1 and 255", or the first and the last of many."""
    if len(values) > _LISTED:
        return f"{', '.join(map(str, values[: _LISTED - 2]))}, ... {values[-1]} ({len(values)} values)"
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else f"{last} alone"


def _quote(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
