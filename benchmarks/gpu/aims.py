"""What the battery must show, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from convmae.benchmarks.gpu.battery import Row


class Aim(NamedTuple):
    """A bound on a number that rows give, None where they don't; `anywhere` holds at any size on any device."""

    item: str
    text: str
    measure: Callable[[Sequence[Row]], float | None]
    at_least: float | None = None
    at_most: float | None = None
    anywhere: bool = False

    def judge(self, rows: Sequence[Row]) -> Row | None:
        """Returns the row that says aim, measured and whether it is met; None where nothing was measured."""
        measured = self.measure(rows)
        if measured is None:
            return None
        met = (self.at_least is None or measured >= self.at_least) and (
            self.at_most is None or measured <= self.at_most
        )
        return {"aim": self.text, "bound": self.bound, "measured": measured, "met": met}

    @property
    def bound(self) -> str:
        """The bound in words."""
        return f"at least {self.at_least:g}" if self.at_most is None else f"at most {self.at_most:g}"


def judge(rows: Sequence[Row], item: str, full: bool) -> list[Row]:
    """Returns the aims' rows of an item; ``full`` where it was measured at full size on a GPU."""
    judged = [aim.judge(rows) for aim in AIMS if aim.item == item and (full or aim.anywhere)]
    return [row for row in judged if row is not None]


def _find(rows: Sequence[Row], case: str, form: str, name: str, mode: str = "step") -> float | None:
    """A number of the row of that case, form and mode."""
    for row in rows:
        if (row.get("case"), row.get("form"), row.get("mode", mode)) == (case, form, mode) and name in row:
            return float(row[name])
    return None


def _value(case: str, form: str, name: str) -> Callable[[Sequence[Row]], float | None]:
    return lambda rows: _find(rows, case, form, name)


def _ratio(case: str, name: str, above: str, below: str) -> Callable[[Sequence[Row]], float | None]:
    """One form's number over another's of the same case, so of the same turns."""

    def measure(rows: Sequence[Row]) -> float | None:
        over, under = (_find(rows, case, form, name) for form in (above, below))
        return over / under if over is not None and under else None

    return measure


def _a_picture(case: str) -> Callable[[Sequence[Row]], float | None]:
    def measure(rows: Sequence[Row]) -> float | None:
        rate = _find(rows, case, "shipped", "a second")
        return 1 / rate if rate else None

    return measure


def _worst(of: Callable[[Row], bool]) -> Callable[[Sequence[Row]], float | None]:
    """The largest deviation over what it may be."""

    def measure(rows: Sequence[Row]) -> float | None:
        found = [row for row in rows if ("allowed" in row or "error" in row) and of(row)]
        parts = [_deviation(row) for row in found]
        return max(parts, default=None)

    return measure


def _deviation(row: Row) -> float:
    """Over what it may be; a check that failed before it compared is as far off as can be."""
    if "error" in row:
        return 1e9
    return row["found"] / row["allowed"] if row["allowed"] else float(row["found"] > 0) * 1e9


def _is(part: str, precision: str = "") -> Callable[[Row], bool]:
    def belongs(row: Row) -> bool:
        return row["case"].startswith("published") == (part == "published") and precision in row.get("what", precision)

    return belongs


_ENCODER, _MASKS = "encoder, 1024 px, batch 4", "Mask R-CNN, 1024 px, batch 4"

AIMS = (
    Aim(
        "right",
        "published models in fp32: worst deviation over the tests' tolerance",
        _worst(_is("published", "fp32")),
        at_most=1,
        anywhere=True,
    ),
    Aim(
        "right",
        "published models in bf16: worst deviation over a hundredth",
        _worst(_is("published", "bf16")),
        at_most=1,
        anywhere=True,
    ),
    Aim(
        "right",
        "own functions in fp32 and bf16: worst deviation over what it may be",
        _worst(_is("own")),
        at_most=1,
        anywhere=True,
    ),
    Aim(
        "tasks",
        "tasks by the runner: worst deviation over what it may be",
        _worst(lambda row: True),
        at_most=1,
        anywhere=True,
    ),
    Aim(
        "pretrain", "ConvMAE 224 px, pictures a second", _value("ConvMAE, 224 px", "shipped", "a second"), at_least=4000
    ),
    Aim(
        "pretrain",
        "ConvMAE 224 px, over the dense form",
        _ratio("ConvMAE, 224 px", "ms", "dense", "shipped"),
        at_least=1.9,
    ),
    Aim(
        "compiled",
        "ConvMAE 224 px compiled, pictures a second",
        _value("ConvMAE, 224 px, compiled", "compiled", "a second"),
        at_least=5000,
    ),
    Aim(
        "pretrain",
        "FastConvMAE 224 px, pictures a second",
        _value("FastConvMAE, 224 px", "shipped", "a second"),
        at_least=1000,
    ),
    Aim(
        "compiled",
        "FastConvMAE 224 px compiled, pictures a second",
        _value("FastConvMAE, 224 px, compiled", "compiled", "a second"),
        at_least=1300,
    ),
    Aim(
        "detection",
        "detection encoder, training step, plain form's time over it",
        _ratio(_ENCODER, "ms", "plain", "shipped"),
        at_least=1.5,
    ),
    Aim(
        "detection",
        "detection encoder, training step, memory over the plain form's",
        _ratio(_ENCODER, "GiB", "shipped", "plain"),
        at_most=0.4,
    ),
    Aim("detection", "Mask R-CNN, training step, seconds a picture", _a_picture(_MASKS), at_most=0.03),
    Aim("detection", "Mask R-CNN, training step, GiB", _value(_MASKS, "shipped", "GiB"), at_most=16),
    Aim(
        "segmentation",
        "UPerNet, training step, crops a second",
        _value("UPerNet, 512 px", "shipped", "a second"),
        at_least=85,
    ),
    Aim(
        "inference",
        "Mask R-CNN, inference, seconds a picture",
        _value("Mask R-CNN", "masks encoded, batch 1", "s a picture"),
        at_most=0.03,
    ),
)
