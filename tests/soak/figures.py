"""The file that holds the figures of the long trials, a part for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_figures(path: Path | None, part: str, figures: dict[str, Any]) -> None:
    """Prints a trial's figures as a line of JSON, and puts them into a file in place of those it had there before."""
    print(json.dumps({part: figures}), flush=True)
    if path is None:
        return
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**known, part: figures}, indent=1) + "\n", encoding="utf-8")
