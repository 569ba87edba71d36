"""Values that no trained model has: told by name before they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

from torch import Tensor

from convmae.backbones.weights.safe_files import CheckpointError

# What a quantised model's file has beside a tensor, by the end of its name.
_SCALES = ("_scale", "_scale_inv")


def check_values(values: Mapping[str, Tensor], source: str, names: Container[str] = ()) -> None:
    """Refuses values for floating-point weights that can't be meant: integers, scaled bytes, what is not finite, zeros alone.

    Floats of any width are taken, also such as are stored in fewer bits.

    Args:
        values: by name, as a file gives them.
        source: the file, for the message.
        names: all of the file, among which a quantised model has the scales of its weights.

    Raises:
        CheckpointError: the first name, what its values are and how many others are alike.
    """
    _refuse(
        source,
        {name: value for name, value in values.items() if value.is_meta},
        lambda value: f"is of the shape {list(value.shape)} and has no values",
        "expected weights that a run has written",
    )
    scaled = {name for name in values if any(f"{name}{end}" in names for end in _SCALES)}
    _refuse(
        source,
        {
            name: v
            for name, v in values.items()
            if not v.is_floating_point() or (v.element_size() == 1 and name in scaled)
        },
        lambda value: f"is {str(value.dtype).removeprefix('torch.')}",
        "expected floats. A quantised model's weights can't be trained: give those it was made from",
    )
    # As the model holds them: a double may be more than it can; PyTorch has no such checks of floats of one byte.
    values = {name: value if value.element_size() in (2, 4) else value.float() for name, value in values.items()}
    _refuse(
        source,
        {name: value for name, value in values.items() if not value.isfinite().all()},
        lambda value: f"holds {int((~value.isfinite()).sum())} of {value.numel()} values that are not finite",
        "expected weights from before the run diverged, or a file that was not altered",
    )
    _refuse(
        source,
        {name: value for name, value in values.items() if name.endswith("running_var") and bool((value < 0).any())},
        lambda value: f"holds a variance of {float(value.min()):g}",
        "expected weights that a run has written",
    )
    matrices = [value for value in values.values() if value.ndim > 1]
    if len(matrices) > 1 and not any(bool(value.any()) for value in matrices):
        raise CheckpointError(
            f"{source}: its {len(matrices)} weight matrices hold zeros alone, as if none had been written; expected a trained "
            "model's"
        )


def _refuse(source: str, bad: Mapping[str, Tensor], describe: Callable[[Tensor], str], expected: str) -> None:
    if bad:
        name, value = next(iter(bad.items()))
        more = f" ({len(bad)} such tensors)" if len(bad) > 1 else ""
        raise CheckpointError(f"{source}: {name} {describe(value)}{more}; {expected}")
