"""One model over several processes by FSDP2: each keeps its part of every weight, gradient and moment, and gathers a block
of weights when it computes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from convmae.engine.errors import UserError
from convmae.engine.machine.compilation import Method

_BLOCKS = re.compile(r"(?:.*[._])?blocks\d*")  # what lists of transformer and convolution blocks are called
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks")


def check_sharding(precision: torch.dtype | None, compile_mode: str) -> None:
    """Raises UserError where a model can't be split: in one process, in fp16, in CUDA graphs.

    ``compile_mode``: of ``runtime.compile``, "" where nothing is compiled.
    """
    if get_world_size() == 1:
        raise UserError(
            "runtime.shard splits a model over several processes, and this is one: start the tool by `torchrun "
            "--nproc_per_node=N` with --launcher pytorch, or leave --shard out."
        )
    if precision is torch.float16:
        raise UserError(
            "runtime.shard and runtime.precision=fp16 don't go together; expected bf16 or fp32, whose losses need no scale."
        )
    if compile_mode == "reduce-overhead":
        raise UserError(
            "runtime.shard and runtime.compile_mode=reduce-overhead don't go together: a CUDA graph finds its weights where "
            "they were, and gathered ones lie elsewhere in each step. Take runtime.compile_mode=default."
        )


def blocks(model: nn.Module) -> list[nn.Module]:
    """Returns the blocks of a model's encoders and decoders, each of which is computed at once."""
    lists = [one for name, one in model.named_modules() if isinstance(one, nn.ModuleList) and _BLOCKS.fullmatch(name)]
    return [block for one in lists for block in one]


def in_blocks(methods: Sequence[Method]) -> list[Method]:
    """Returns what is compiled of a split model in place of methods: each block in them, as weights are gathered in between."""
    owners: list[nn.Module] = [method.__self__ for method in methods]  # type: ignore[attr-defined]
    return [block.forward for block in dict.fromkeys(block for owner in owners for block in blocks(owner))]


class Sharding:
    """Splits a model, whose modules, names and shapes stay what they were, and makes it whole again.

    Parameters become ``DTensor``s, each split along its first dimension, so that what refers to the old ones is to be asked
    for again by name. Gradients are means over the processes, as with DDP, and all numbers are what the run's precision makes
    them: weights are gathered as they are, in fp32.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.before = {
            module: (type(module), {name: getattr(module, name).copy() for name in _HOOKS})
            for module in (*blocks(model), model)
        }
        for parameter in model.parameters():  # FSDP2 knows no other order of memory, such as channels last
            parameter.data = parameter.data.contiguous()
        mesh = init_device_mesh(device.type, (get_world_size(),))
        for module in self.before:
            # Of the root, too, nothing more is held than a part once it has computed: what averages weights finds parts alone.
            fully_shard(module, mesh=mesh, reshard_after_forward=True)

    @torch.no_grad()
    def undo(self) -> None:
        """Makes the model what it was, with whole weights in every process."""
        for module in self.before:
            if isinstance(module, FSDPModule):
                module.reshard()
        gathered: dict[int, nn.Parameter] = {}  # one for all modules that share it
        for module in self.model.modules():
            for name, parameter in module._parameters.items():
                if isinstance(parameter, DTensor):
                    if id(parameter) not in gathered:
                        gathered[id(parameter)] = nn.Parameter(whole(parameter.detach()), parameter.requires_grad)
                    module._parameters[name] = gathered[id(parameter)]
        for module, (kind, hooks) in self.before.items():
            module.__class__ = kind  # FSDP2 derives a class of its own for each
            for name, known in hooks.items():
                getattr(module, name).clear()
                getattr(module, name).update(known)


def local(value: Tensor) -> Tensor:
    """Returns this process's part of a tensor, all of one that isn't split; they share their memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """Returns a tensor gathered from all processes, which all have to ask; one that isn't split as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def split_like(value: Tensor, known: Tensor) -> Tensor:
    """Returns the part of a whole tensor that a process has of ``known``, on its device; the tensor where that isn't split."""
    if not isinstance(known, DTensor):
        return value
    value = value.to(known.device_mesh.device_type, known.dtype)
    return distribute_tensor(value, known.device_mesh, known.placements, src_data_rank=None)  # all have read the same


def gathered(state: Mapping[str, Any], kept: bool) -> dict[str, Any]:
    """Returns a state of tensors in nested mappings and lists, whole and on the CPU; all processes have to ask.

    One that doesn't keep it copies nothing: it has None in place of each tensor.
    """

    def taken(value: Any) -> Any:
        if isinstance(value, Tensor):
            found = whole(value.detach())
            return found.cpu() if kept else None
        if isinstance(value, Mapping):
            return {name: taken(inner) for name, inner in value.items()}
        return [taken(inner) for inner in value] if isinstance(value, list) else value

    found: dict[str, Any] = taken(state)
    return found
