"""The objects of a split in a few arrays: light beside a Python object for each number, and shared by loader processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from convmae.detection.data.coco_records import ImageRecord, ObjectRecord, Segmentation

Columns = dict[str, NDArray]


class PackedObjects(Mapping[int, list[ObjectRecord]]):
    """Returns the objects of a picture by its id; they are made anew at each call.

    Row n of ``id``, ``label``, ``box``, ``area`` and ``crowd`` is an object; those of picture i, in order of ``images``, end
    at row ``object_ends[i]``. Likewise its polygons end at ``polygon_ends[n]``, the coordinates of each in ``numbers`` by
    ``number_ends``, and the text of its run lengths in ``runs`` by ``run_ends``.
    """

    def __init__(self, images: Sequence[ImageRecord], columns: Columns) -> None:
        self.columns = columns
        self._images = {image.id: (number, image) for number, image in enumerate(images)}
        learnable = np.concatenate([[0], np.cumsum(~columns["crowd"])])
        self._learnable = np.diff(learnable[columns["object_ends"]], prepend=0)

    @classmethod
    def pack(cls, images: Sequence[ImageRecord], objects: Mapping[int, list[ObjectRecord]]) -> PackedObjects:
        """Packs the objects of each picture id."""
        of_image = [objects.get(image.id, []) for image in images]
        found = list(chain.from_iterable(of_image))
        outlines = [one.segmentation for one in found]
        polygons = [outline if isinstance(outline, list) else [] for outline in outlines]
        parts = list(chain.from_iterable(polygons))
        texts = [outline["counts"].encode() if isinstance(outline, dict) else b"" for outline in outlines]
        return cls(
            images,
            {
                "object_ends": _ends(of_image),
                "id": np.array([one.id for one in found], np.int64),
                "label": np.array([one.label for one in found], np.int64),
                "box": np.array([one.box for one in found], np.float64).reshape(-1, 4),
                "area": np.array([one.area for one in found], np.float64),
                "crowd": np.array([one.crowd for one in found], np.bool_),
                "polygon_ends": _ends(polygons),
                "number_ends": _ends(parts),
                "numbers": np.fromiter(chain.from_iterable(parts), np.float64),
                "run_ends": _ends(texts),
                "runs": np.frombuffer(b"".join(texts), np.uint8),
            },
        )

    def __getitem__(self, image_id: int) -> list[ObjectRecord]:
        number, image = self._images[image_id]
        return [self._record(row, image) for row in range(*_span(self.columns["object_ends"], number))]

    def __iter__(self) -> Iterator[int]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def learnable(self, image: ImageRecord) -> int:
        """Returns how many objects of a picture are no crowds."""
        return int(self._learnable[self._images[image.id][0]])

    def rows(self, images: Sequence[ImageRecord]) -> NDArray[np.int64]:
        """Returns the rows of the columns that belong to these pictures."""
        chosen = np.zeros(len(self), np.bool_)
        chosen[[self._images[image.id][0] for image in images]] = True
        return np.flatnonzero(np.repeat(chosen, np.diff(self.columns["object_ends"], prepend=0)))

    def owners(self) -> NDArray[np.int64]:
        """Returns the number of the picture that each row belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.columns["object_ends"], prepend=0))

    def without_segmentation(self) -> NDArray[np.int64]:
        """Returns the rows of objects, crowds aside, that have neither polygons nor run lengths."""
        polygons, runs = (np.diff(self.columns[name], prepend=0) for name in ("polygon_ends", "run_ends"))
        return np.flatnonzero((polygons == 0) & (runs == 0) & ~self.columns["crowd"])

    def _record(self, row: int, image: ImageRecord) -> ObjectRecord:
        columns = self.columns
        left, top, right, bottom = columns["box"][row].tolist()
        return ObjectRecord(
            int(columns["id"][row]),
            int(columns["label"][row]),
            (left, top, right, bottom),
            float(columns["area"][row]),
            bool(columns["crowd"][row]),
            self.segmentation(row, image),
        )

    def segmentation(self, row: int, image: ImageRecord) -> Segmentation | None:
        """Returns the mask of a row, which belongs to the picture; None for a crowd without one."""
        columns = self.columns
        start, end = _span(columns["run_ends"], row)
        if start < end:
            return {"size": [image.height, image.width], "counts": columns["runs"][start:end].tobytes().decode()}
        parts = range(*_span(columns["polygon_ends"], row))
        return [columns["numbers"][slice(*_span(columns["number_ends"], part))].tolist() for part in parts] or None


def _ends(parts: Sequence[Sequence | bytes]) -> NDArray[np.int64]:
    return np.cumsum([len(part) for part in parts], dtype=np.int64)


def _span(ends: NDArray[np.int64], number: int) -> tuple[int, int]:
    return int(ends[number - 1]) if number else 0, int(ends[number])
