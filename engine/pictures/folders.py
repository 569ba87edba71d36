"""Which files of a folder are pictures, and what of it is passed over."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageFile

from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, Report, refuse, spread
from convmae.engine.pictures.bands import ARRAYS
from convmae.engine.pictures.images import open_image
from convmae.engine.regular_files import kind_of_file
from convmae.engine.shards.places import InShards, place

# What Pillow opens, but never decodes (MPEG), or only by running Ghostscript (EPS).
_NOT_DECODED = {"EPS", "MPEG"}
# Formats whose endings hardly stand for anything else; with others, as .pcd, which is of point clouds too, each file is opened.
_PLAIN = {"AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "PSD", "QOI", "TIFF", "WEBP"}
# Endings of pictures that Pillow does not open.
_UNREAD = {
    ".heic", ".heif", ".hif", ".jxl", ".jxr", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef",
    ".srw", ".dcm", ".dicom", ".exr", ".svs", ".ndpi", ".czi", ".lif", ".nii", ".mha", ".nrrd",
}  # fmt: skip
# Folders that systems and programs keep beside a user's files; the copies and previews in them are nobody's data.
_SYSTEM = {
    "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".AppleDouble", ".Trash",
    ".Trashes", ".cache", ".git", ".ipynb_checkpoints", ".thumbnails", ".venv",
}  # fmt: skip
# What this project's tools leave, by the files that tell them: the pictures among it, and the folders of such.
_OWN = {
    frozenset({"config.yaml", "scalars.jsonl"}): {"reconstructions.png"},
    frozenset({"legend.json", "legend.png"}): {"legend.png", "overlays", "labels"},
}
_HIDDEN = "hidden"  # stands for the ending of a hidden file
_LOOKED_INTO = 8  # files of an ending, to see whether they are pictures
_NAMED = 5  # endings that a message names


@dataclass
class _Contents:
    """What lies in a folder and those below it. ``linked`` are the pictures that are links, or lie in linked folders."""

    pictures: list[Path] = field(default_factory=list)
    linked: set[Path] = field(default_factory=set)
    others: dict[str, list[Path]] = field(default_factory=dict)  # by ending
    faults: list[Fault] = field(default_factory=list)


@functools.cache
def picture_endings() -> dict[str, bool]:
    """Returns the endings of files that are pictures, lower case, and whether a file must be opened to tell.

    They are those that Pillow registers for what it opens and decodes by itself.
    """
    endings = {}
    for ending, kind in Image.registered_extensions().items():  # imports all of Pillow's formats
        opener = Image.OPEN.get("JPEG" if kind == "MPO" else kind, (None,))[0]
        stub = isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
        if opener is not None and not stub and kind not in _NOT_DECODED:
            endings[ending] = kind not in _PLAIN
    return endings


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of that name is nobody's data: hidden, or kept by a system."""
    return name.startswith(".") or name in _SYSTEM


def list_images(folder: str | Path, report: Report = refuse, once: bool = False) -> list[Path]:
    """Returns the pictures in a folder and the folders below it, sorted; of shards those of the tree that was packed.

    Links are followed, but for those that lead back to a folder above them. With ``once``, of several paths that lead to one
    file by links, the others are left out. What is passed over is reported. Raises UserError if there is no such folder, or no
    picture in it.
    """
    folder = place(folder)
    if isinstance(folder, InShards):
        return folder.pictures(once)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: expected one that holds pictures.")
    found = _Contents()
    for path, names, chain in _folders(folder, found.faults):
        _sort_files(path, names, bool(chain), found)
    if not found.pictures:  # beside pictures arrays are hardly some
        found.pictures = [path for ending in ARRAYS for path in found.others.pop(ending, [])]
    passed_over = _passed_over(folder, found.others)
    if not found.pictures:
        raise UserError(
            f"{folder} holds no pictures: expected files that end in .jpg, .png, .tif, .npy or another ending that Pillow reads"
            + "".join(f"; {fault}" for fault in [*passed_over, *found.faults])
            + "."
        )
    pictures = sorted(found.pictures)
    if once and found.linked:
        pictures = _once(folder, pictures, found)
    for fault in [*passed_over, *found.faults]:
        report(fault)
    return pictures


def _folders(top: Path, faults: list[Fault]) -> Iterator[tuple[Path, list[os.DirEntry[str]], tuple[str, ...]]]:
    """Yields the folders with their entries and, for each link on the way there, the real folder that the link lies in."""
    pending: list[tuple[Path, tuple[str, ...]]] = [(top, ())]
    reached: set[tuple[str, str]] = set()  # targets of links, by the folder of the top that they are met in
    while pending:
        folder, chain = pending.pop()
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
            folders = {entry.name for entry in entries if _is_folder(entry)}  # some file systems tell only when asked
        except OSError as error:
            message = f"{folder} can't be read ({error.strerror}); allow it, or move the folder away."
            faults.append(Fault("folders that can't be read", message))
            continue
        names = {entry.name for entry in entries}
        own = {name for marks, drawn in _OWN.items() if marks <= names for name in drawn & names}
        yield folder, [entry for entry in entries if entry.name not in own | folders], chain
        if own:
            message = f"{folder}: {', '.join(sorted(own))} passed over, which a tool of this project drew"
            faults.append(Fault("drawings of this project's tools", message, Effect.NOTE))
        below = []
        for entry in entries:
            if entry.name in own or entry.name not in folders:
                continue
            path = Path(entry.path)
            if is_hidden(entry.name):
                faults.append(_hidden(path))
            elif not entry.is_symlink():
                below.append((path, chain))
            else:
                target, way = os.path.realpath(path), (*chain, os.path.realpath(folder))
                met = path.relative_to(top).parts[0], target
                if any(_holds(target, one) for one in way):
                    message = f"{path} leads back to {target}, which is listed already, and is not followed"
                    faults.append(Fault("links that lead back", message, Effect.NOTE))
                # Links within what a link leads to could lead to one another without end; a class needs them once.
                elif chain and met in reached:
                    message = f"{path} leads to {target}, as another link in {top / met[0]} does, and is not followed"
                    faults.append(Fault("links that another leads to", message, Effect.NOTE))
                else:
                    reached.add(met)
                    below.append((path, way))
        pending += reversed(below)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _holds(folder: str, inside: str) -> bool:
    return os.path.commonpath([folder, inside]) == folder


def _sort_files(folder: Path, entries: Iterable[os.DirEntry[str]], linked: bool, found: _Contents) -> None:
    """Adds the files of a folder to what was found."""
    endings = picture_endings()
    for entry in entries:
        path, ending = Path(folder, entry.name), os.path.splitext(entry.name)[1].lower()
        must_open = endings.get(ending)
        if entry.name.startswith("."):
            if must_open is False and not entry.name.startswith("._"):  # macOS keeps what its disks don't in ._a.jpg
                found.others.setdefault(_HIDDEN, []).append(path)
        elif not entry.is_file(follow_symlinks=False) and (kind := _no_file(path)):
            if isinstance(kind, str):
                if ending in (*endings, *ARRAYS):
                    message = f"{path} is a {kind}, not a file, and is passed over"
                    found.faults.append(Fault("pictures that are no files", message, Effect.DOUBTFUL))
            elif must_open is False:
                found.pictures.append(path)
                found.faults.append(_out_of_reach(path, kind))
            else:
                found.others.setdefault(ending, []).append(path)
        elif must_open is False or (must_open and _kind(path)):
            found.pictures.append(path)
            if linked or entry.is_symlink():
                found.linked.add(path)
        else:
            found.others.setdefault(ending, []).append(path)


def _no_file(path: Path) -> str | OSError:
    """Returns what a path that is no plain file leads to in its place, "" for a file, or why that can't be told."""
    try:
        return kind_of_file(path)
    except OSError as error:
        return error


def _out_of_reach(path: Path, error: OSError) -> Fault:
    """Returns the fault of a picture of which nothing can be told."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and path.is_symlink():
        message = f"{path} is a link to {os.readlink(path)}, which is not there; restore it or remove the link."
        return Fault("links that lead nowhere", message)
    message = f"{path} can't be read ({error.strerror}); allow it, or move it away."
    return Fault("pictures that can't be reached", message)


def _once(folder: Path, pictures: list[Path], found: _Contents) -> list[Path]:
    """Returns the pictures without those that links lead to a second time, and adds a fault that says so."""
    kept, seen, dropped = set[Path](), set[tuple[int, int]](), list[Path]()
    for path in sorted(pictures, key=found.linked.__contains__):  # those that lie there first
        try:
            status = path.stat()
        except OSError:  # said already
            continue
        key = status.st_dev, status.st_ino
        if path in found.linked and key in seen:
            dropped.append(path)
        else:
            seen.add(key)
            kept.add(path)
    if dropped:
        message = f"{folder}: {len(dropped)} links lead to pictures that are listed already, as {dropped[0]}; each counts once"
        found.faults.append(Fault("folders with pictures linked twice", message, Effect.DOUBTFUL))
    return [path for path in pictures if path in kept]


def _hidden(folder: Path) -> Fault:
    """Returns the fault of a folder that is passed over: doubtful where it is no system's and holds pictures."""
    if folder.name not in _SYSTEM:
        names = (Path(parent, name) for parent, _, files in os.walk(folder) for name in files)
        picture = next((path for path in names if picture_endings().get(path.suffix.lower()) is False), None)
        if picture:
            message = f"{folder} is hidden and passed over, with {picture} in it; rename the folder if it is meant"
            return Fault("hidden folders with pictures", message, Effect.DOUBTFUL)
    return Fault("hidden folders", f"{folder} is hidden or a system's and passed over", Effect.NOTE)


def _passed_over(folder: Path, others: dict[str, list[Path]]) -> list[Fault]:
    """Returns the fault of files that no ending makes pictures, doubtful where some of them may be."""
    counts = Counter({ending: len(paths) for ending, paths in others.items()})
    if not counts:
        return []
    named = [f"{count:,} {ending or 'without an ending'}" for ending, count in counts.most_common(_NAMED)]
    rest = counts.total() - sum(count for _, count in counts.most_common(_NAMED))
    total = f"{counts.total():,} file{'s' * (counts.total() != 1)} of other endings passed over"
    message = f"{folder}: {total}: {', '.join([*named, *[f'{rest:,} more'] * bool(rest)])}"
    doubts = [doubt for ending in sorted(others) if (doubt := _doubt(ending, others[ending]))]
    if doubts:
        return [Fault("folders with files that may be pictures", f"{message}. {doubts[0]}", Effect.DOUBTFUL)]
    return [Fault("folders with files that are no pictures", message, Effect.NOTE)]


def _doubt(ending: str, paths: list[Path]) -> str:
    """Returns why files of an ending may be pictures, and what to do; empty where they are none."""
    if ending in ARRAYS:
        return f"{paths[0]} may be a picture: arrays are taken for pictures where a folder holds no others"
    if ending in _UNREAD:
        return f"{paths[0]} may be a picture that Pillow does not open: convert such files to PNG, TIFF or JPEG"
    for path in spread(paths, _LOOKED_INTO):
        kind = _kind(path)
        if kind:
            name = "a name without a dot before it" if ending == _HIDDEN else "the ending of its format"
            return f"{path} is a picture ({kind}): give it {name}"
    return ""


def _kind(path: Path) -> str:
    """Returns a file's format as Pillow or its first bytes tell it, or "" where it is no picture."""
    try:
        with open_image(path, sys.maxsize) as image:  # its size is another matter
            return image.format or ""
    except UserError:
        pass
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return ""
    if head[128:] == b"DICM":
        return "DICOM"
    return "HEIF" if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1") else ""
