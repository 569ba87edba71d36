"""Files that are either whole or not there."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmae.engine.class_lists import check_class_lists
from convmae.engine.errors import UserError
from convmae.engine.regular_files import check_regular
from convmae.engine.run_files import claim, partial_name
from convmae.zoo import shipped_file, shipped_weights

if TYPE_CHECKING:
    import torch

# Marks that Windows' editors begin a file with.
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def save_atomically(write: Callable[[Any], None], path: Path) -> None:
    """Calls ``write`` on a binary file beside ``path`` and moves it there once it is whole and on the disk.

    Makes the folders above it. Raises UserError where that can't be done.
    """
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        claim(path)
        try:
            with open(partial, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # torch.save makes a RuntimeError of a full disk
        said = [getattr(one, "strerror", None) for one in (error, error.__context__)]
        reason = said[0] or said[1] or str(error).partition("\n")[0]
        raise UserError(f"{path} can't be written ({reason}); give another place or make room.") from error


def write_whole(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 as ``save_atomically`` does; what UTF-8 can't hold stands there as an escape."""
    save_atomically(lambda file: file.write(text.encode("utf-8", "backslashreplace")), path)


def read_text(path: Path) -> str:
    r"""Returns a text file's content with \n at the end of each line, in UTF-8 or as the mark at its beginning says.

    Raises UserError for a file that can't be read or is no such text.
    """
    try:
        check_regular(path)
        content = path.read_bytes()
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
        text = content.decode(encoding)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        name = "UTF-16" if error.encoding.startswith("utf-16") else "UTF-8"
        raise UserError(f"{path} is no {name} text ({error.reason} at byte {error.start}); save it as UTF-8.") from None
    if "\0" in text:
        raise UserError(f"{path} is no UTF-8 text (a zero at byte {content.index(0)}); save it as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def save_weights(
    state: dict[str, torch.Tensor], path: Path, config: str = "", meta: Mapping[str, Any] | None = None
) -> Path:
    """Writes named weights as ``{"model": ..., "config": ..., "meta": ...}`` (.pth) or safetensors; returns the path.

    In a .pth they stand under ``state_dict`` too, at no cost: mmengine looks there, MAE's code and detectron2 under ``model``.
    ``config`` is the YAML of the run that made them, so that tools know what the weights are; ``meta`` says more of them, in
    plain containers, as mmengine's checkpoints do. Raises UserError for values that aren't finite.
    """
    import safetensors.torch  # PyTorch takes seconds, for which options and texts don't wait
    import torch

    from convmae.engine.whole_weights import check_finite

    check_finite(state, f"{path} is not written", "Expected weights of a run that did not diverge.")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    meta = dict(meta or {})
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(plain, {"format": "pt", "config": config, "meta": json.dumps(meta)})
        save_atomically(lambda file: file.write(content), path)
    else:
        whole = {"model": plain, "state_dict": plain, "config": config, "meta": meta}
        save_atomically(lambda file: torch.save(whole, file), path)
    return path


def file_of(weights: str | Path) -> Path:
    """Returns the file of FILE, FILE:KEY or a name in `zoo`, as ``split_choice`` does, which needs PyTorch to be imported."""
    if (shipped := shipped_file(weights)) is not None:
        return shipped
    file, _, _ = str(weights).rpartition(":")
    return Path(file if os.path.isfile(file) and not os.path.exists(weights) else weights)


def check_is_file(checkpoint: str | Path) -> None:
    """Raises UserError where there is no such weight file; FILE:KEY names one, too, and so does a name in `zoo`."""
    if not os.path.isfile(file_of(checkpoint)):
        raise UserError(
            f"There is no checkpoint {checkpoint}: expected a file, or the name of weights that come with the package "
            f"({', '.join(shipped_weights())})."
        )


def beside(weights: str | Path, suffix: str) -> Path:
    """Returns a place for what is made of weights: beside their file, of those in `zoo` in the current folder."""
    shipped = shipped_file(weights) is not None
    return (Path(weights) if shipped else file_of(weights)).with_suffix(suffix)


def read_config(path: Path) -> str:
    """Returns the YAML that ``save_weights`` put beside the weights, or "" where a file has none."""
    config = _content(path).get("config")
    return config if isinstance(config, str) else ""


def read_meta(path: Path) -> dict[str, Any]:
    """Returns what stands as ``meta`` beside the weights, or {} where a file has none.

    Raises UserError for a class list in it that is none.
    """
    meta = _content(path).get("meta")
    if isinstance(meta, str):
        try:
            meta = json.loads(meta)
        except (ValueError, RecursionError):
            return {}
    if not isinstance(meta, dict):
        return {}
    check_class_lists(meta, path)
    return meta


def _content(path: Path) -> dict[str, Any]:
    """Returns a file's content without the values of tensors; of safetensors what stands beside them."""
    from convmae.backbones.weights.safe_files import CheckpointError, read_file
    from convmae.backbones.weights.weight_files import split_choice

    # A file of others, with more in it than tensors, or no file of weights: nothing of ours stands there.
    with contextlib.suppress(CheckpointError):
        content = read_file(split_choice(path)[0], values=False, sums=False)
        return content if isinstance(content, dict) else {}
    return {}
