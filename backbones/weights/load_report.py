"""What became of each name when weights were loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class LoadReport:
    """What became of each key; `str()` of it is meant for people."""

    missing: list[str]  # the model's names that the file did not fill
    unexpected: list[str]  # the file's names that the model has no place for
    resized: list[str]  # the model's names whose values were resampled to its grid
    converted: list[str]  # the model's names whose values were fused, reshaped or cut
    source: str  # the file, the key inside it, and the prefix taken off
    ignored: list[str] = field(default_factory=list)  # what carries no weights
    notes: dict[str, str] = field(default_factory=dict)  # why or how, by name
    loaded: int = 0  # tensors of the model that were filled
    total: int = 0  # tensors of the model

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.loaded} of the model's {self.total} tensors loaded"]
        for fate in ("missing", "unexpected", "resized", "converted", "ignored"):
            names = getattr(self, fate)
            if names:
                title = "ignored, for they are no weights" if fate == "ignored" else fate
                plain = [name for name in names if name not in self.notes]
                shown = _ranges(plain) + [f"{name} ({self.notes[name]})" for name in names if name in self.notes]
                lines.append(f"  {title} ({len(names)}): {', '.join(shown)}")
        return "\n".join(lines)


def _ranges(names: list[str]) -> list[str]:
    """Shortens rows of names that differ by their first number only: a.0.b, a.1.b -> a.{0-1}.b."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name in names:
        match = re.search(r"(?<=\.)\d+(?=\.)", name)
        head, number, tail = (name[: match.start()], int(match[0]), name[match.end() :]) if match else (name, -1, "")
        groups.setdefault((head, tail), []).append(number)
    shown = []
    for (head, tail), numbers in groups.items():
        if numbers == [-1]:
            shown.append(head)
        elif numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 1:
            shown.append(f"{head}{{{numbers[0]}-{numbers[-1]}}}{tail}")
        else:
            shown += [f"{head}{number}{tail}" for number in numbers]
    return shown
