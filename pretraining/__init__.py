"""Masked pretraining: ConvMAE, FastConvMAE and the baseline MAE as plain modules, and what runs them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmae.pretraining.methods import MAE, METHODS, ConvMAE, FastConvMAE, MaskedAutoencoder, Reconstruction

__all__ = ["MAE", "METHODS", "ConvMAE", "FastConvMAE", "MaskedAutoencoder", "Reconstruction"]


def __getattr__(name: str) -> Any:
    """Reads the models when one is asked for: they need PyTorch, which takes seconds, and the options of this package don't."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from convmae.pretraining import methods

    return getattr(methods, name)
