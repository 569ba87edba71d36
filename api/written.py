"""What a tool writes of results: data set files, tables and drawings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from convmae.detection.data.coco_records import Category, ImageRecord
from convmae.detection.predict import as_coco, as_results
from convmae.engine.commands.given_pictures import save_picture
from convmae.engine.files import write_whole
from convmae.engine.pictures.images import Picture
from convmae.reports.drawing import legend, palette
from convmae.results import CONFIDENT, Classification, Detections, LabelMap


class Pictures(Protocol):
    """Which entries of a COCO file a picture has (``detection.predict.Given`` or ``Listed``)."""

    categories: list[Category]

    def records(self, path: Path, image: Picture) -> list[ImageRecord]:
        """Returns what results say of a picture that was read."""
        ...


class DetectionFiles:
    """``detections.json``, a COCO data set whose annotations have a score, and a drawing of each picture.

    With ``rows`` also ``results_bbox.json`` and ``results_segm.json``, which COCO's servers take; drawn is what is confident.
    """

    def __init__(self, output: Path, pictures: Pictures, masks: bool, rows: bool, drawings: bool) -> None:
        self.output, self.pictures, self.drawings, self.rows = output, pictures, drawings, rows
        self._kinds = {"bbox": "bbox", **({"segm": "segmentation"} if masks else {})} if rows else {}
        self._images: list[ImageRecord] = []
        self._found: list[dict[str, Any]] = []

    def files(self, names: Iterable[Path]) -> list[Path]:
        """Returns what is written for pictures of these names, but for the main file."""
        drawn = [self.output / name for name in names] if self.drawings else []
        return [*(self._rows_of(kind) for kind in self._kinds), *drawn]

    def add(self, path: Path, name: Path, image: Picture, result: Detections) -> None:
        """Takes a picture's result in."""
        for record in self.pictures.records(path, image):
            self._images.append(record)
            self._found.append(result.as_found(record.id))
        if self.drawings:
            save_picture(self.draw(result), self.output / name)

    def draw(self, result: Detections) -> Image.Image:
        """Returns the drawing of a picture."""
        return result.draw(CONFIDENT if self.rows else 0.0)

    def finish(self, main: Path) -> tuple[str, list[str]]:
        """Writes what is of all pictures; returns what was found and the files."""
        whole = as_coco(self._images, self._found, self.pictures.categories)
        write_whole(main, json.dumps(whole))
        for kind, key in self._kinds.items():
            write_whole(self._rows_of(kind), json.dumps(as_results(whole["annotations"], key)))
        written = [str(main), *(str(self._rows_of(kind)) for kind in self._kinds)]
        return f"{len(whole['annotations'])} detections", written

    def _rows_of(self, kind: str) -> Path:
        return self.output / f"results_{kind}.json"


class LabelFiles:
    """``overlays/``, ``labels/`` (PNG, numbered as the data's label maps), and the classes with their colours as a legend."""

    def __init__(self, output: Path, classes: Sequence[str], first: int, drawings: bool) -> None:
        self.output, self.classes, self.first, self.drawings = output, classes, first, drawings
        self._key, self._seen = output / "legend.png", set[int]()

    def files(self, names: Iterable[Path]) -> list[Path]:
        """Returns what is written for pictures of these names, but for the main file."""
        return [self._key, *(path for name in names for path in self._places(name))]

    def add(self, path: Path, name: Path, image: Picture, result: LabelMap) -> None:
        """Takes a picture's result in."""
        *overlays, labels = self._places(name)
        for overlay in overlays:
            save_picture(self.draw(result), overlay)
        save_picture(result.image(), labels)
        self._seen |= set(np.unique(result.labels).tolist())

    def draw(self, result: LabelMap) -> Image.Image:
        """Returns the drawing of a picture."""
        return result.draw()

    def finish(self, main: Path) -> tuple[str, list[str]]:
        """Writes what is of all pictures; returns what was found and the files."""
        colours = palette(len(self.classes))
        save_picture(legend(self.classes, colours), self._key)
        rows = [
            json.dumps({"index": index, "name": name, "color": colour})
            for index, (name, colour) in enumerate(zip(self.classes, colours, strict=True), self.first)
        ]
        write_whole(main, "[\n" + ",\n".join(rows) + "\n]\n")
        return f"{len(self._seen)} classes", [str(main)]

    def _places(self, name: Path) -> list[Path]:
        labels = self.output / "labels" / name.with_suffix(".png")
        return [self.output / "overlays" / name, labels] if self.drawings else [labels]


class ClassFiles:
    """``classes.json`` and ``classes.csv``: the most probable classes of each picture, the best first, and drawings."""

    def __init__(self, output: Path, top: int, drawings: bool) -> None:
        self.output, self.top, self.drawings = output, top, drawings
        self._table, self._rows = output / "classes.csv", list[dict[str, Any]]()

    def files(self, names: Iterable[Path]) -> list[Path]:
        """Returns what is written for pictures of these names, but for the main file."""
        return [self._table, *(self.output / name for name in (names if self.drawings else ()))]

    def add(self, path: Path, name: Path, image: Picture, result: Classification) -> None:
        """Takes a picture's result in."""
        best = [{"name": label, "probability": round(score, 6)} for label, score in result.top(self.top)]
        self._rows.append({"file_name": str(path), "classes": best})
        if self.drawings:
            save_picture(self.draw(result), self.output / name)

    def draw(self, result: Classification) -> Image.Image:
        """Returns the drawing of a picture."""
        return result.draw(min(3, self.top))

    def finish(self, main: Path) -> tuple[str, list[str]]:
        """Writes what is of all pictures; returns what was found and the files."""
        write_whole(main, "[\n" + ",\n".join(map(json.dumps, self._rows)) + "\n]\n")
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        count = max((len(row["classes"]) for row in self._rows), default=0)
        rows.writerow(
            ["file_name", *(f"{what}_{place}" for place in range(1, count + 1) for what in ("class", "probability"))]
        )
        for row in self._rows:
            rows.writerow([row["file_name"], *(value for one in row["classes"] for value in one.values())])
        write_whole(self._table, table.getvalue())
        names = {row["classes"][0]["name"] for row in self._rows}
        return f"{len(names)} classes", [str(main), str(self._table)]


Files = DetectionFiles | LabelFiles | ClassFiles
