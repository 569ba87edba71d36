"""What mmdet needs before it is imported: importing this checks its version, and gives mmcv operators if none are compiled."""

from __future__ import annotations

from importlib import metadata

from convmae.engine.errors import UserError
from convmae.engine.machine.mmcv_operators import provide

VERSION = "3.5.1"


def check_version() -> None:
    """Raises UserError unless the mmdet that this was written for is installed."""
    found = []
    for name in ("onedl-mmdetection", "mmdet"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if found != [f"onedl-mmdetection {VERSION}"]:
        raise UserError(
            f"Found {' and '.join(found) or 'no mmdet'}; expected onedl-mmdetection {VERSION} alone, the fork that runs on "
            "current PyTorch: install this project with its extra 'mmdet' (docs/mmdetection.md)."
        )


check_version()
provide()
