"""Where a step would make the host wait for a GPU, counted on a CPU.

The step runs as it is, in CPU memory, but tensors that would lie on the GPU say that they do (``x.device`` is ``cuda:0``), so
that code which asks takes the way it would take there. Such tensors are the ones the caller names, what is made with
``device=`` of one of them or moved there, and whatever an operator puts out that has one of them among its arguments. All
else is the host's: random draws and factories without ``device=``, Python's numbers and lists.

Counted as waits are operators on the device's tensors whose result the host needs (``item``, ``bool``, ``tolist``, ``equal``),
or whose shape depends on values (``nonzero``, indexing by a mask, ``unique``, ``bincount``, ``nms``, ``repeat_interleave``
without ``output_size``), and copies: from the device unless ``non_blocking``, to it unless ``non_blocking`` from pinned memory.
A mask as index is one wait; a masked assignment of a number is none, as on a GPU.

Not seen: ``torch.cuda.synchronize`` and events, allocation, waits within a CUDA kernel's launcher that are not listed here,
and code that asks ``torch.cuda.is_available()``. A ``torch.Generator`` of the device can't be made, and ``torch.compile``
can't be counted. Inside PyTorch's own Python functions tensors name their real device. The fused attention's kernels, which
wait for nothing, can't run here: attention goes by slices.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from convmae.backbones.attention import biased

DEVICE, HOST = torch.device("cuda", 0), torch.device("cpu")
# Operators that wait whenever their first tensor lies on the device.
WAITING = {
    "aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::bincount", "aten::histc",
    "aten::_unique", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::unique_dim_consecutive",
    "torchvision::nms",
}  # fmt: skip
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
_TORCH = Path(torch.__file__).parent
_PROJECT, _LIBRARIES = Path(__file__).parents[2], _TORCH.parent


class Wait(NamedTuple):
    """An operator that waits, and the line that called it: ``file:line``, within a library followed by the project's own."""

    op: str
    where: str


def host_waits(step: Callable[[], Any], device: Any = (), pinned: Any = ()) -> list[Wait]:
    """Calls ``step`` twice and returns the waits of the second call in order; the first may fill caches and make states.

    device: what would lie on the GPU: modules, optimisers and tensors, in any nest of lists, tuples and dicts.
    pinned: tensors of the host that a loader has pinned, in such a nest.
    """
    tracker = _Tracker()
    for tensor in _tensors(device):
        tracker.device.add(tensor)
    for tensor in _tensors(pinned):
        tracker.pinned.add(tensor)
    by_slices = patch.object(biased, "is_fused", lambda *_: False)
    with _preprocessors_on_device(device), by_slices, _Operators(tracker), _Functions(tracker):
        step()
        tracker.waits.clear()
        step()
    return tracker.waits


class _Storages:
    """A set of tensors by their memory. A weak reference keeps its address from being given to another tensor."""

    def __init__(self) -> None:
        self._known: dict[int, StorageWeakRef] = {}

    def forget_freed(self) -> None:
        """Leaves out the memory that no tensor has any more."""
        self._known = {address: kept for address, kept in self._known.items() if not kept.expired()}

    def add(self, value: Any) -> None:
        if isinstance(value, Tensor) and value.layout is torch.strided:
            storage = value.untyped_storage()
            self._known.setdefault(storage._cdata, StorageWeakRef(storage))

    def __contains__(self, value: Any) -> bool:
        strided = isinstance(value, Tensor) and value.layout is torch.strided
        return strided and value.untyped_storage()._cdata in self._known


_ON_DEVICE = _Storages()  # from one count to the next, as what a model has cached there is


class _Tracker:
    """Which tensors lie on the device, which are pinned, and the waits so far."""

    def __init__(self) -> None:
        self.device, self.pinned = _ON_DEVICE, _Storages()
        self.device.forget_freed()
        self.waits: list[Wait] = []
        self.makes_on_device = False  # whether what an operator makes of no other tensor would lie there
        self.paused = False  # while memory is copied to stand for a move

    def wait(self, op: str) -> None:
        self.waits.append(Wait(op, _where(sys._getframe(1))))

    def copy(self, tensor: Tensor, to_device: bool) -> Tensor:
        """Returns a tensor in memory of its own, on one side or the other."""
        self.paused = True
        try:
            copy = tensor.clone()
        finally:
            self.paused = False
        if to_device:
            self.device.add(copy)
        return copy

    def blocks(self, source: Any, target: Any, to_device: bool, non_blocking: bool) -> bool:
        """Whether a copy between the two sides waits: it doesn't where it needn't and the host's side is pinned."""
        return not (non_blocking and (source if to_device else target) in self.pinned)


class _Functions(TorchFunctionMode):
    """What Python calls: where a tensor lies, and moves from one side to the other."""

    def __init__(self, tracker: _Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs, tracker = kwargs or {}, self.tracker
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is not None and func in _ANSWERS:
            return _ANSWERS[func](first, tracker)
        if func is Tensor.backward:  # with this mode on, for backward passes written in Python
            with self._makes(True), self:
                _backward(*args, **kwargs)
            return None
        if func is Tensor.tolist and first in tracker.device:
            tracker.wait("tolist")
        named = _device_of(func, args, kwargs)
        inputs = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        args, kwargs = (tree_map(_on_host, given) for given in (args, kwargs))
        if first is not None and func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            other = inputs[-1] in tracker.device  # x.to(y), or x itself
            return self._move(func, args, kwargs, other if named is None else named.type == "cuda")
        anywhere = any(tensor in tracker.device for tensor in inputs)
        to_device = named.type == "cuda" if named is not None else func is Tensor.new_tensor and anywhere
        # An index of Python's, or a number to assign, comes from the host.
        indexes = func in (Tensor.__getitem__, Tensor.__setitem__)
        before = len(tracker.waits)
        with self._makes(to_device or (anywhere and named is None and not indexes)):
            found = func(*args, **kwargs)
        if func is F.one_hot and len(args) + len(kwargs) > 1:  # looks at the labels on a CPU alone
            del tracker.waits[before:]
        if func in _FROM_NUMBERS and to_device and args[func is Tensor.new_tensor] not in tracker.device:
            tracker.wait(func.__name__)
            return tracker.copy(found, to_device=True)
        if to_device:
            tree_map(tracker.device.add, found)
        return found

    def _move(self, func: Any, args: tuple, kwargs: dict[str, Any], to_device: bool) -> Tensor:
        tracker, source = self.tracker, args[0]
        moved = source if func is Tensor.cuda else func(*args, **kwargs)
        if to_device == (source in tracker.device):
            return moved
        flags = [value for value in args[1:] if isinstance(value, bool)]
        non_blocking = kwargs.get("non_blocking", bool(flags) and flags[0])
        moved = tracker.copy(moved, to_device)
        if not to_device and non_blocking:  # PyTorch makes the copy in pinned memory
            tracker.pinned.add(moved)
        if tracker.blocks(source, moved, to_device, non_blocking):
            tracker.wait(func.__name__)
        return moved

    @contextlib.contextmanager
    def _makes(self, on_device: bool) -> Iterator[None]:
        before, self.tracker.makes_on_device = self.tracker.makes_on_device, on_device
        try:
            yield
        finally:
            self.tracker.makes_on_device = before


class _Operators(TorchDispatchMode):
    """What PyTorch runs, in the backward pass too: which results lie on the device, and which operators wait."""

    def __init__(self, tracker: _Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs, tracker = kwargs or {}, self.tracker
        with torch._C.DisableTorchFunction():
            if tracker.paused:
                return func(*args, **kwargs)
            inputs = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
            on_device = any(tensor in tracker.device for tensor in inputs)
            if on_device:
                for op in _waits(func, args, kwargs, tracker):
                    tracker.wait(op)
            found = func(*args, **kwargs)
            if not func._schema.is_mutable and (on_device or (not inputs and tracker.makes_on_device)):
                tree_map(tracker.device.add, found)
        return found


def _waits(func: Any, args: tuple, kwargs: dict[str, Any], tracker: _Tracker) -> Iterator[str]:
    """Yields the name of each wait of an operator that has a tensor of the device among its arguments."""
    name: str = func._schema.name
    if name in WAITING:
        if args[0] in tracker.device:
            yield name
    elif name == "aten::repeat_interleave":
        if kwargs.get("output_size") is None:
            yield name
    elif name == "aten::copy_":
        to_device = args[0] in tracker.device
        if to_device != (args[1] in tracker.device):
            non_blocking = kwargs.get("non_blocking", len(args) > 2 and args[2])
            if tracker.blocks(args[1], args[0], to_device, non_blocking):
                yield name
    elif name in _INDEXING:
        found = [index for index in args[1] if index is not None]
        masks = [index.dtype in (torch.bool, torch.uint8) for index in found]
        if "put" in name and masks == [True] and args[2].numel() == 1 and args[2] not in tracker.device:
            return  # a masked fill
        for index, is_mask in zip(found, masks, strict=True):
            if index not in tracker.device:
                yield f"{name}, by an index of the host"
            elif is_mask:
                yield f"{name}, by a mask"


_Attributes: Any = Tensor  # to mypy these are what they give, not what gives it
_ANSWERS: dict[Any, Callable[[Tensor, _Tracker], Any]] = {
    _Attributes.device.__get__: lambda tensor, tracker: DEVICE if tensor in tracker.device else HOST,
    _Attributes.is_cuda.__get__: lambda tensor, tracker: tensor in tracker.device,
    _Attributes.is_cpu.__get__: lambda tensor, tracker: tensor not in tracker.device,
    Tensor.is_pinned: lambda tensor, tracker: tensor in tracker.pinned,
    Tensor.pin_memory: lambda tensor, tracker: _pinned_copy(tensor, tracker),
}


def _backward(tensor: Tensor, gradient: Tensor | None = None, **kwargs: Any) -> None:
    torch.autograd.backward(tensor, gradient, **kwargs)


def _pinned_copy(tensor: Tensor, tracker: _Tracker) -> Tensor:
    copy = tracker.copy(tensor, to_device=False)
    tracker.pinned.add(copy)
    return copy


def _device_of(func: Any, args: tuple, kwargs: dict[str, Any]) -> torch.device | None:
    """Returns the device that a call names."""
    if func in (Tensor.cpu, Tensor.cuda):
        return HOST if func is Tensor.cpu else DEVICE
    named = kwargs.get("device")
    if named is None:
        words = args[1:2] if func is Tensor.to else ()
        named = next((value for value in args if isinstance(value, torch.device)), None)
        named = named or next((value for value in words if isinstance(value, str)), None)
    return None if named is None else torch.device(named)


def _on_host(value: Any) -> Any:
    """Returns an argument that names the device as one that names the host."""
    named = isinstance(value, torch.device) or (isinstance(value, str) and value.startswith("cuda"))
    return HOST if named else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from (*value.parameters(), *value.buffers())
    elif isinstance(value, Optimizer):  # which counts its steps on the host, unless it is one kernel
        for group in value.param_groups:
            for parameter in group["params"]:
                state = value.state.get(parameter, {})
                yield from _tensors([found for name, found in state.items() if name != "step" or group.get("fused")])
    elif isinstance(value, BaseDataElement):
        yield from _tensors(value.all_values())
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


@contextlib.contextmanager
def _preprocessors_on_device(value: Any) -> Iterator[None]:
    """mmengine's preprocessors remember the device that their model was moved to."""
    given = value if isinstance(value, list | tuple) else [value]
    modules = [part for one in given if isinstance(one, nn.Module) for part in one.modules()]
    found = [part for part in modules if isinstance(part, BaseDataPreprocessor)]
    before = [part._device for part in found]
    try:
        for part in found:
            part._device = DEVICE
        yield
    finally:
        for part, device in zip(found, before, strict=True):
            part._device = device


def _where(frame: FrameType | None) -> str:
    """Returns the innermost line outside PyTorch and, if that is a library's, the innermost of the project's after it."""
    lines: list[str] = []
    while frame is not None:
        path, line = Path(frame.f_code.co_filename), frame.f_lineno
        frame = frame.f_back
        if _TORCH in path.parents or path in (Path(__file__), Path(contextlib.__file__)):
            continue
        # The project may be installed among the libraries, or the libraries lie in an environment within the project.
        around = [folder for folder in (_LIBRARIES, _PROJECT) if folder in path.parents]
        base = max(around, key=lambda folder: len(folder.parts), default=None)
        library = base == _LIBRARIES
        if library and lines:
            continue
        lines.append(f"{path.relative_to(base) if base else path.name}:{line}")
        if not library:
            break
    return ", from ".join(lines)
