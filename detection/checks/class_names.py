"""Whether a list of classes and the objects of two splits belong together."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import Category
from convmae.engine.faults import Effect, Fault, Report

_SHOWN = 5  # names that a message tells
_NO_CLASSES = {
    "background",
    "dontcare",
    "don't care",
    "ignore",
    "ignored",
    "ignored regions",
    "unlabeled",
    "unlabelled",
    "void",
}


def check_names(data: CocoData, report: Report) -> None:
    """Reports classes that differ in id, but not in name, or in capitals and spaces alone.

    Likewise those of no name, and those with objects that are named as what is no class.
    """
    known: dict[str, Category] = {}
    for category, count in _counts(data).items():
        plain = _plain(category.name)
        first = known.setdefault(plain, category)
        where = f"{data.annotations}: category {category.id}"
        if not plain:
            report(Fault("classes without a name", f"{where} is named {category.name!r}.", Effect.DOUBTFUL))
        elif first is not category:
            message = f"{where} is named {category.name!r}, category {first.id} {first.name!r}; are they one class?"
            report(Fault("classes of the same name", message, Effect.DOUBTFUL))
        elif plain in _NO_CLASSES and count:
            message = (
                f"{where} is named {category.name!r} and has {count} objects, which are learnt and measured as a class."
            )
            report(Fault("classes named as if they were none", message, Effect.DOUBTFUL))


def check_learnt(train: CocoData, val: CocoData, report: Report) -> None:
    """Reports, of the training split, classes that it has no object of, apart for those that validation has some of."""
    learnt, measured = _counts(train), _counts(val)
    if not any(learnt.values()):
        return  # another check's fault
    absent = [category for category, count in learnt.items() if not count]
    never = [category for category in absent if not measured.get(category)]
    if never:
        groups = [category for category in never if category.name in train.groups]
        said = f"; {_some(groups)} is the supercategory of others, a group and no class" if groups else ""
        files = " and ".join(dict.fromkeys([str(train.annotations), str(val.annotations)]))
        message = (
            f"{files}: {len(never)} of {len(learnt)} classes have no object (crowds aside): {_some(never)}{said}. They are "
            "never learnt, but may be guessed; delete from 'categories' what is no class."
        )
        report(Fault("lists with classes that no object has", message, Effect.DOUBTFUL))
    unseen = [category for category in absent if measured.get(category)]
    if unseen:
        message = (
            f"{train.annotations} has no object of {len(unseen)} classes that {val.annotations} has objects of: "
            f"{_some(unseen)}. They can't be learnt, and COCO's numbers count 0 for each."
        )
        report(Fault("lists with classes that validation alone has objects of", message, Effect.DOUBTFUL))


def check_measured(val: CocoData, train: CocoData, report: Report) -> None:
    """Reports, of the validation split, classes that the training split alone has objects of."""
    measured = _counts(val)
    for category, count in _counts(train).items():
        if count and measured.get(category) == 0:
            message = f"{val.annotations} has no object of {category.name!r}, {train.annotations} has {count}."
            report(Fault("classes with objects in one split alone", message, Effect.NOTE))


def _counts(data: CocoData) -> dict[Category, int]:
    return dict(zip(data.categories, data.class_counts(), strict=True))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()


def _some(categories: Sequence[Category]) -> str:
    names = ", ".join(repr(category.name) for category in categories[:_SHOWN])
    return names + (f" and {len(categories) - _SHOWN} more" if len(categories) > _SHOWN else "")
