"""The kernels that a training step would launch on a GPU, counted without one.

The step runs on PyTorch's fake tensors, which have shapes and a device and no memory, so models of any size take seconds. They
say to Python that they lie on a GPU, so that code which asks takes the way it would take there; what PyTorch's own C++ code
would decide there is imitated:

* autocast: products in bf16, each weight cast once a step; norms, softmax and losses in fp32 (`LOWER`, `FP32`, `SUMS`);
* `scaled_dot_product_attention` is flash attention without a mask, memory-efficient attention with one, written out in fp64.

An operator of this project (`convmae::...`) counts as what it runs, and a Triton kernel as one. An operator of PyTorch's
counts as one kernel, a view and an allocation as none; `KERNELS` has the exceptions. Not counted: what a library launches
behind one call (conversions of layout, split sums), the optimiser, copies from the host.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import DispatchKey
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.flop_counter import flop_registry

from convmae.backbones.attention import fused

# Functions that CUDA's autocast computes in bf16, in fp32, and with an fp32 sum (PyTorch's list of them, as far as it is used).
LOWER = {
    F.linear, F.conv2d, F.conv_transpose2d, F.scaled_dot_product_attention, torch.einsum, torch.conv2d, torch.addmm,
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm, torch.baddbmm,
}  # fmt: skip
FP32 = {
    F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, torch.log_softmax, Tensor.log_softmax,
    torch.pow, Tensor.pow, Tensor.__pow__, torch.square, Tensor.square, torch.exp, Tensor.exp, torch.log, Tensor.log,
    torch.norm, Tensor.norm, F.cross_entropy, F.mse_loss, F.smooth_l1_loss, F.cosine_similarity,
}  # fmt: skip
SUMS = {torch.sum, Tensor.sum, torch.cumsum, Tensor.cumsum}

_NO_KERNEL = {
    "aten::detach", "aten::alias", "aten::lift_fresh", "aten::_unsafe_view", "aten::_reshape_alias", "aten::empty",
    "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided", "prim::device",
}  # fmt: skip
# Operators that launch another number of kernels than one.
KERNELS: dict[str, Callable[..., int]] = {
    "aten::convolution": lambda x, weight, bias, *_: 1 + (bias is not None),  # cuDNN adds no bias
    "aten::convolution_backward": lambda *args: sum(args[10]),  # of input, weight and bias, as far as they are asked for
    "aten::native_layer_norm_backward": lambda *_: 2,  # of the input; of weight and bias
    "aten::_scaled_dot_product_flash_attention_backward": lambda *_: 3,  # row sums; key, value and query; its conversion
    # Row sums; key, value and query; zeros for a bias's gradient.
    "aten::_scaled_dot_product_efficient_attention_backward": lambda *args: 2 + (args[4] is not None),
    "aten::sort": lambda x, *_: 2 if x.shape[-1] <= 4096 else 8,  # a block's sort and its indices; passes of a radix sort
    "aten::index_put_": lambda *args: 8 if args[3:] == (True,) else 1,  # sums are sorted by place first
    "aten::_index_put_impl_": lambda *args: 8 if args[3:4] == (True,) else 1,
    # Zeros first.
    **dict.fromkeys(
        ("aten::constant_pad_nd", "aten::slice_backward", "aten::select_backward", "aten::unfold_backward",
         "aten::max_pool2d_with_indices_backward", "aten::index_add", "aten::scatter", "aten::index_copy"),
        lambda *_: 2,
    ),
}  # fmt: skip
_ONLY_WRITE = {"aten::copy_", "aten::fill_", "aten::zero_", "aten::uniform_", "aten::normal_"}
_READ_SOME = {"aten::index_select", "aten::index", "aten::gather", "aten::embedding"}
# Matrix products over all pairs of tokens of a window.
_FUSED_PRODUCTS = {"convmae::fused_attention": 2, "convmae::fused_attention_backward": 9}


class Work(NamedTuple):
    """Kernels launched, bytes that they read and write at least, floating-point operations of products."""

    kernels: int
    bytes: int
    flops: int


class Counts(NamedTuple):
    """Of a training step without its optimiser.

    `within` are kernels of the step that fused operators of this project launch beyond one each; `peak` is in bytes, weights
    and gradients included, `forward_peak` that of the forward pass; `kernels` by operator.
    """

    forward: Work
    step: Work
    within: int
    peak: int
    forward_peak: int
    kernels: Counter[str]


def count_step(build: Callable[[], Callable[[], Tensor]], training: bool = True) -> Counts:
    """Counts the kernels of a forward pass in bf16, and of the backward pass after it.

    Args:
        build: makes model and inputs on the default device and returns what computes a loss of them; takes no gradient itself.
        training: False leaves out the backward pass, and the gradient's bookkeeping in the forward pass.
    """
    with FakeTensorMode(), contextlib.ExitStack() as stack:
        with torch.device("cuda"):
            loss = build()
        kernels = _Kernels()
        stack.enter_context(kernels.launches())
        stack.enter_context(kernels)
        with _Functions(kernels, forward=True), torch.device("cuda"), torch.set_grad_enabled(training):
            value = loss()
        forward, forward_peak = kernels.work(), kernels.peak
        if training:
            with _Functions(kernels, forward=False):
                # By the engine itself: a call of `torch.autograd.backward` is given to the mode, which is off in it then.
                _engine_run_backward((value,), (torch.ones_like(value),), False, False, (), accumulate_grad=True)
        return Counts(forward, kernels.work(), kernels.within, kernels.peak, forward_peak, kernels.counted)


class _Functions(TorchFunctionMode):
    """What Python calls, as PyTorch's C++ code would go on with it on a GPU."""

    def __init__(self, kernels: _Kernels, forward: bool) -> None:
        super().__init__()
        self.kernels, self.forward = kernels, forward
        self.weights: dict[int, tuple[Tensor, Tensor]] = {}  # those that were cast, and what became of them

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func == _IS_CUDA:
            return args[0].device.type == "cuda"
        # In the backward pass what has a gradient of its own is a forward pass that is recomputed, which has autocast again.
        autocast = self.forward or torch.is_grad_enabled()
        if autocast and (func in LOWER or func in FP32):
            dtype = torch.bfloat16 if func in LOWER else torch.float32
            args, kwargs = tree_map(lambda x: self._cast(x, dtype), (args, kwargs))
        elif autocast and func in SUMS and args[0].is_floating_point():
            kwargs.setdefault("dtype", torch.promote_types(args[0].dtype, torch.float32))
        if func is F.scaled_dot_product_attention and args[0].dtype != torch.float64:
            return _attend(*args, **kwargs)
        self.kernels.functions = self  # for operators of ours, which run Python code
        return func(*args, **kwargs)

    def _cast(self, x: Any, dtype: torch.dtype) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype in (dtype, torch.float64):
            return x
        if not (self.forward and x.is_leaf and x.requires_grad and dtype == torch.bfloat16):
            return x.to(dtype)  # casts are kept until autocast ends, which is soon where a block is recomputed
        if id(x) not in self.weights:
            self.weights[id(x)] = x, x.to(dtype)
        return self.weights[id(x)][1]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # as dropout no more or fewer kernels
    *,
    scale: float | None = None,
) -> Tensor:
    if attn_mask is None and query.dtype != torch.float32:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[0]
    if attn_mask is not None:
        tokens = attn_mask.shape[-1]
        attn_mask = (
            F.pad(attn_mask, (0, -tokens % 16))[..., :tokens] if tokens % 16 else attn_mask
        )  # rows begin aligned
        attn_mask = attn_mask.expand(*query.shape[:3], tokens)
    keep = torch.is_grad_enabled() and query.requires_grad
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, keep, scale=scale)[0]


class _Kernels(TorchDispatchMode):
    """What PyTorch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()
        self.bytes = self.flops = self.within = self.live = self.peak = 0
        self.functions: _Functions | None = None

    def work(self) -> Work:
        """Returns what was launched so far."""
        return Work(self.counted.total(), self.bytes, self.flops)

    @contextlib.contextmanager
    def launches(self) -> Iterator[None]:
        """Counts the project's Triton kernels instead of launching them."""
        if not fused.HAS_TRITON:
            yield
            return
        from convmae.backbones.attention import fused_kernels

        launchers: dict[str, Any] = {name: _Launcher(name, self) for name in (*fused.TILES, "fold_bands")}
        with mock.patch.multiple(fused_kernels, **launchers):
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # to C++ they are of no GPU: autograd would look for its streams
            return torch.device("meta")
        if kwargs.get("device") == torch.device("meta"):
            kwargs = {**kwargs, "device": torch.device("cuda")}
        name: str = func._schema.name
        if func.namespace == "convmae":
            before = self.counted.total()
            with self.functions or contextlib.nullcontext(), self:
                found = OPDEFS[name]._init_fn(*args, **kwargs)
            if name in _FUSED_PRODUCTS:
                self.within += self.counted.total() - before - 1
                self.flops += _FUSED_PRODUCTS[name] * _pairs(*args)
            return found
        if func.has_kernel_for_dispatch_key(
            DispatchKey.CompositeImplicitAutograd
        ):  # of an operator of ours, below autograd
            with self:
                return func.decompose(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            found = func(*args, **kwargs)
            outputs = [x for x in tree_iter(found) if isinstance(x, Tensor)]
            self._hold(outputs)
            if outputs and not func.is_view and name not in _NO_KERNEL:
                inputs = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
                self.add(name, KERNELS.get(name, _one)(*args), _traffic(name, inputs, outputs))
                if flops := flop_registry.get(func._overloadpacket):
                    factors = [x for x in args if not isinstance(x, torch.dtype)]  # whose formula may not know it
                    self.flops += flops(*factors, **kwargs, out_val=found)
        return found

    def add(self, name: str, kernels: int, moved: int) -> None:
        """Counts kernels of an operator and the bytes that they move."""
        self.counted[name] += kernels
        self.bytes += moved

    def _hold(self, tensors: Iterable[Tensor]) -> None:
        for x in tensors:
            storage = x.untyped_storage()
            if not hasattr(storage, "_counted"):
                storage._counted = True  # type: ignore[attr-defined]
                size = storage.nbytes()
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


class _Launcher:
    """Stands in for a Triton kernel: `kernel[grid](...)` is one launch."""

    def __init__(self, name: str, kernels: _Kernels) -> None:
        self.name, self.kernels = name, kernels

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            with torch._C.DisableTorchFunction():
                self.kernels.add(self.name, 1, sum(_memory(x) for x in args if isinstance(x, Tensor)))

        return launch


def _pairs(query: Tensor, *args: Any) -> int:
    """Floating-point operations of one product over all pairs of tokens of a fused operator's windows."""
    grid, window = args[-2:]
    sides = [
        [min(size, side - start) for start in range(0, side, size)] for side, size in zip(grid, window, strict=True)
    ]
    pairs = math.prod(sum(length**2 for length in lengths) for lengths in sides)
    return 2 * query.shape[0] * query.shape[1] * query.shape[3] * pairs


def _traffic(name: str, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """Bytes read and written."""
    written = sum(map(_memory, outputs))
    if name in _READ_SOME:
        return 2 * written + sum(map(_memory, inputs[1:]))
    return written + sum(map(_memory, inputs[name in _ONLY_WRITE :]))


def _memory(x: Tensor) -> int:
    """Bytes of a tensor, each counted once where it is expanded."""
    sides = (side for side, stride in zip(x.shape, x.stride(), strict=True) if stride or not side)
    return math.prod(sides) * x.element_size()


def _one(*args: Any) -> int:
    return 1


_Attributes: Any = Tensor  # to mypy these are what they give, not what gives it
_IS_CUDA = _Attributes.is_cuda.__get__
