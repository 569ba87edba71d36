"""What training holds whatever the batch, counted by hand and on a run, and GPUs that can't hold it."""

import pytest
import torch
from torch import nn

from convmae.engine.errors import UserError
from convmae.engine.machine.memory import check_memory, training_bytes
from convmae.engine.options import DataOptions, OptimOptions
from convmae.engine.training.average import WeightAverage
from convmae.engine.training.optim import build_optim_wrapper, param_groups

CUDA = torch.device("cuda")


def model() -> nn.Module:
    found = nn.Sequential(nn.Linear(100, 50), nn.BatchNorm1d(50), nn.Linear(50, 10))
    found[2].requires_grad_(False)
    return found


@pytest.mark.parametrize("averaged", [False, True])
def test_the_count_is_what_a_step_leaves_behind(averaged: bool) -> None:
    net = model()
    options = OptimOptions(average=0.9 if averaged else 0.0)
    wrapper = build_optim_wrapper(param_groups(net, options), options, DataOptions(), torch.device("cpu"), None)
    average = WeightAverage(net, 0.9) if averaged else None
    net(torch.randn(4, 100)).square().mean().backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    wrapper.step()
    moments = [value for state in wrapper.optimizer.state.values() for name, value in state.items() if name != "step"]
    held = [*net.state_dict().values(), *gradients, *moments, *(average.values.values() if average else ())]
    assert training_bytes(net, averaged) == sum(tensor.nbytes for tensor in held)


def pretend(monkeypatch: pytest.MonkeyPatch, free: int, total: int, reserved: int = 0) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda *_: (free, total))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda *_: reserved)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *_: "Small Card")


def test_a_gpu_too_small_for_the_model_is_said_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        net = nn.Linear(2**15, 2**14, bias=False)  # 2 GiB, so 8 in training
    pretend(monkeypatch, 5 * 2**30, 6 * 2**30)
    with pytest.raises(
        UserError, match=r"take 8\.0 GiB, .*Small Card has 5\.0 GiB free of 6\.0\. Take a smaller"
    ) as said:
        check_memory(net, False, CUDA)
    assert "optim.average" not in str(said.value)
    pretend(monkeypatch, 9 * 2**30, 16 * 2**30)
    check_memory(net, False, CUDA)
    with pytest.raises(UserError, match=r"take 10\.0 GiB, .*End what else runs on it, .*optim\.average=0"):
        check_memory(net, True, CUDA)
    pretend(monkeypatch, 9 * 2**30, 16 * 2**30, reserved=2**30)
    check_memory(net, True, CUDA)
    check_memory(net, True, torch.device("cpu"))
