"""What is doubtful of the values in pictures beyond 8 bits, and of files with more pictures than the one that is used."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile, TiffImagePlugin

from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, Report, spread
from convmae.engine.pictures.bands import OTHER_BANDS, Bands, stored_bands
from convmae.engine.pictures.depth import Kind, advised_range, kind_of, samples, unknown_range
from convmae.engine.pictures.images import check_bands, open_image
from convmae.engine.pictures.reading import Reading

LISTED = 256  # files whose headers are looked at when a run starts
DECODED = 16  # of those beyond 8 bits
VALUES = 2**18  # of each of these, about
USED = 0.1  # part of the range below which it is remarked
TAIL = 0.001  # part of the values that may lie beyond what is called used, at either end: hot pixels
PARTLY = 0.5  # part of a picture's pixels, neither clear nor opaque, above which its transparency is doubted
_REDUCED_OR_MASK = 1 | 4  # of TIFF's NewSubfileType
_NEW_SUBFILE_TYPE = 254


class _Header(NamedTuple):
    path: Path
    kind: Kind
    mode: str
    several: bool
    bands: Bands | None = None


class _Values(NamedTuple):
    header: _Header
    finite: NDArray
    lost: float  # part of the values that is no finite number


def check_ranges(paths: Sequence[Path], reading: Reading, report: Report, complete: bool = False) -> None:
    """Reports pictures whose values use little of their range, or lie beyond it, and files of several frames or odd alpha.

    Headers of ``LISTED`` files, spread evenly, are looked at (of all, if ``complete``), and ``DECODED`` pictures beyond 8 bits
    are decoded; those of unknown range, and of other bands than the model has channels, stop. Files that can't be read are for
    others to report.
    """
    listed = spread(paths, len(paths) if complete else LISTED)
    with ThreadPoolExecutor() as pool:
        looked = [one for one in pool.map(lambda path: _header(path, reading), listed) if one is not None]
    for fault in [one for one in looked if isinstance(one, Fault)][:1]:
        report(fault)
    headers = [one for one in looked if isinstance(one, _Header)]
    for header in headers:
        if header.several:
            message = (
                f"{header.path} holds several frames, of which the first is used (of {len(listed):,} files looked at)."
            )
            report(Fault("files of several frames", message, Effect.DOUBTFUL))
    _check_alpha(headers, reading, report)
    deep = [one for one in headers if one.kind.deep and (one.bands or one.mode.startswith(("I", "F", "L", "RGB")))]
    flat = [one.path for one in headers if not one.kind.deep]
    if reading.range and flat:
        message = (
            f"{len(flat):,} of {len(headers):,} pictures looked at have 8 bits, the first is {flat[0]}: data.range is for "
            "those of more bits alone."
        )
        report(
            Fault("splits of pictures that data.range is not for", message, Effect.NOTE if deep else Effect.DOUBTFUL)
        )
    try:
        found = [values for one in spread(deep, DECODED) if (values := _values(one, reading)) is not None]
    except Fault as fault:
        report(fault)
        return
    for one in found:
        if one.lost:
            message = (
                f"{one.header.path}: {100 * one.lost:.2f} % of its values are no finite numbers (NaN) and become black."
            )
            report(Fault("pictures with values that are no numbers", message, Effect.DOUBTFUL))
    found = [one for one in found if one.finite.size]
    if found:
        _check_used(found, reading, report)


def _check_alpha(headers: Sequence[_Header], reading: Reading, report: Report) -> None:
    """Reports pictures whose transparency may be a band, as that of four bands of a satellite is called by some programs."""
    if reading.channels not in (1, 3):
        return
    found = []
    transparent = spread([one for one in headers if one.mode == "RGBA"], DECODED)
    for one in transparent:
        try:
            with open_image(one.path, reading.max_pixels) as image:
                alpha = np.asarray(image.getchannel("A"))
        except UserError:  # as in _header
            continue
        share = float(((alpha > 0) & (alpha < 255)).mean())
        if share > PARTLY:
            found.append((one.path, share))
    if found:
        message = (
            f"{len(found)} of {len(transparent)} pictures with transparency that were looked at are partly transparent in most "
            f"places, the first is {found[0][0]} ({100 * found[0][1]:.0f} % of it); they are laid on white. If the fourth band "
            "is no transparency, set model.in_chans=4."
        )
        report(Fault("splits whose transparency may be a band", message, Effect.DOUBTFUL))


def _check_used(found: Sequence[_Values], reading: Reading, report: Report) -> None:
    low, high = reading.range or found[0].header.kind.range or (0, 1)
    ends, beyond = [], []
    for one in found:
        black, white = reading.range or one.header.kind.range or (0, 1)
        shares = (np.quantile(one.finite, (TAIL, 1 - TAIL)) - black) / (white - black)
        ends.append(np.clip(shares, 0, 1))
        beyond.append(((one.finite < black) | (one.finite > white)).mean())
    least, most = np.min(ends, axis=0)[0], np.max(ends, axis=0)[1]
    values = [np.quantile(one.finite, (TAIL, 1 - TAIL)) for one in found]
    smallest, largest = min(ends[0] for ends in values), max(ends[1] for ends in values)
    kind = found[0].header.kind
    which = "data.range is" if reading.range else f"{kind} reach from"
    what = (
        f"{len(found)} pictures of more than 8 bits were looked at, the first is {found[0].header.path}: almost all values lie "
        f"from {smallest:g} to {largest:g}, and {which} {low:g} to {high:g}"
    )
    advice = (
        f"If not meant, give the values of black and white, as data.range={advised_range(smallest, largest, kind)}."
    )
    if np.mean(beyond) > 0.5:
        kept = f"{100 * np.mean(beyond):.0f} % of them are beyond and become black or white"
        report(Fault("splits whose values are mostly beyond data.range", f"{what}: {kept}. {advice}", Effect.DOUBTFUL))
    elif most - least < USED:
        kept = f"{100 * (most - least):.1f} % of that, about {max(1, round(256 * (most - least)))} of 256 grey levels"
        report(Fault("splits that use less than a tenth of their range", f"{what}: {kept}. {advice}", Effect.DOUBTFUL))


def _header(path: Path, reading: Reading) -> _Header | Fault | None:
    try:
        if (bands := stored_bands(path, reading)) is not None:
            return _Header(path, bands.kind, "", False, bands)
        with open_image(path, reading.max_pixels) as image:
            check_bands(image, path, reading)
            return _Header(path, kind_of(image, path), image.mode, _several(image))
    except UserError as error:  # a run looks at its pictures elsewhere, or names one where it comes to it
        return error if isinstance(error, Fault) and error.kind == OTHER_BANDS else None


def _several(image: ImageFile.ImageFile) -> bool:
    """Whether frames follow that are pictures of their own: no smaller versions or masks, as maps have, or a phone's extras."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return False
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return True
    image.seek(1)
    return not int(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & _REDUCED_OR_MASK


def _values(header: _Header, reading: Reading) -> _Values | None:
    try:
        if header.bands:
            values = header.bands.read().reshape(-1)
        else:
            with open_image(header.path, reading.max_pixels) as image:
                values = samples(image, header.path, header.kind)
    except UserError:  # as above
        return None
    if reading.range is None and header.kind.range is None:
        raise unknown_range(header.path, values, header.kind)
    values = values[..., :3].reshape(-1) if values.ndim == 3 else values.reshape(-1)
    some = values[:: max(1, len(values) // VALUES) | 1]  # odd, so that all columns of a picture have their turn
    finite = np.isfinite(some)
    return _Values(header, some[finite].astype(np.float64), 1 - float(finite.mean()) if len(some) else 0.0)
