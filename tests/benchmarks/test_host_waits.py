"""The counter sees what makes a host wait for a GPU, and only that."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from convmae.benchmarks.counting.host_waits import host_waits

WAITING: dict[str, Callable[[Tensor, Tensor], object]] = {
    "item": lambda x, i: x.sum().item(),
    "bool": lambda x, i: bool((x > 0).any()),
    "tolist": lambda x, i: x.tolist(),
    "equal": lambda x, i: torch.equal(x, x + 1),
    "where": lambda x, i: torch.where(x > 0),
    "mask": lambda x, i: x[x > 0],
    "mask assigned a number of the device": lambda x, i: x.clone().__setitem__(x > 0, x[0, 0]),
    "masked_select": lambda x, i: x.masked_select(x > 0),
    "unique": lambda x, i: x.unique(),
    "bincount": lambda x, i: i.bincount(),
    "repeat_interleave": lambda x, i: torch.repeat_interleave(i),
    "list to the device": lambda x, i: torch.tensor([1.0], device=x.device),
    "number to the device": lambda x, i: x.new_tensor(1.0),
    "host to the device": lambda x, i: torch.randn(3).to(x.device),
    "unpinned": lambda x, i: torch.randn(3).to(x.device, non_blocking=True),
    "as another": lambda x, i: torch.randn(3).to(x),
    "into the device": lambda x, i: x[0].copy_(torch.randn(x.shape[1])),
    "to the host": lambda x, i: (x * 2).cpu(),
    "named host": lambda x, i: x.to("cpu"),
    "index of the host": lambda x, i: x[torch.tensor([0, 1])],
    "made on the device": lambda x, i: bool(torch.zeros((), device=x.device)),
    "made by the backward pass": lambda x, i: bool(_gradient(x).sum() > 0),
}
FREE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "arithmetic": lambda x, i: (x @ x.T).softmax(0).cumsum(0),
    "draws on the host": lambda x, i: torch.rand(4).sum().item(),
    "a copy that was made": lambda x, i: x.detach().to("cpu", non_blocking=True).sum().item(),
    "masked number": lambda x, i: x.clone().__setitem__(x > 0, 0.0),
    "index": lambda x, i: x[i],
    "index assigned": lambda x, i: x.clone().__setitem__(i, x[0]),
    "repeat_interleave": lambda x, i: torch.repeat_interleave(i, output_size=3),
    "where": lambda x, i: torch.where(x > 0, x, 0.0),
    "factories": lambda x, i: torch.full((2,), 3.0, device=x.device) + torch.arange(2, device=x.device),
    "pinned": lambda x, i: torch.randn(3).pin_memory().to(x.device, non_blocking=True),
    "loss": lambda x, i: F.cross_entropy(x, i),
    "one_hot": lambda x, i: F.one_hot(i, 3),
    "host": lambda x, i: torch.randn(5).cpu().tolist(),
}


def _gradient(x: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    leaf[1:, 0].sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("name", WAITING)
def test_a_wait_is_counted_once_and_where_it_is(name: str) -> None:
    waits = _count(WAITING[name])
    assert len(waits) == 1, waits
    assert waits[0].where.startswith("test_host_waits.py:")


@pytest.mark.parametrize("name", FREE)
def test_what_does_not_wait_is_not_counted(name: str) -> None:
    assert _count(FREE[name]) == []


def test_tensors_of_the_device_say_so_in_code_that_asks_and_compute_what_they_did() -> None:
    x, i = _inputs()
    seen: list[Any] = []

    def step() -> None:
        inner = (x * 2)[i]
        seen.extend(
            [inner.device, inner.is_cuda, torch.rand(2).device.type, torch.rand(2, device=inner.device).is_cuda]
        )
        seen.append(inner.detach().to("cpu", non_blocking=True))

    host_waits(step, [x, i])
    assert seen[:4] == [torch.device("cuda", 0), True, "cpu", True]
    assert torch.equal(seen[4], (x * 2)[i])
    assert x.device.type == "cpu"


def test_a_training_step_names_the_line_of_each_wait_and_gives_the_gradients_it_would() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    batch = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(batch).square().mean().backward()
    expected = [2 * parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    optimizer.zero_grad()
    losses: list[float] = []

    def step() -> None:
        loss = model(batch.to(next(model.parameters()).device, non_blocking=True)).square().mean()
        loss.backward()
        losses.append(loss.item())

    waits = host_waits(step, [model, optimizer], pinned={"inputs": batch})
    assert [wait.op for wait in waits] == ["aten::_local_scalar_dense"]
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, wanted)
    assert [wait.op for wait in host_waits(step, model)] == ["to", "aten::_local_scalar_dense"]  # it is not pinned


def test_a_wait_in_a_library_names_the_projects_line_too() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]])
    scores = torch.tensor([0.5, 0.7])
    (wait,) = host_waits(lambda: nms(boxes, scores, 0.5), [boxes, scores])
    assert wait.op == "torchvision::nms"
    assert "torchvision/ops/boxes.py:" in wait.where
    assert ", from test_host_waits.py:" in wait.where


def _inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1])


def _count(step: Callable[[Tensor, Tensor], object]) -> list:
    x, i = _inputs()
    return host_waits(lambda: step(x, i), [x, i])
