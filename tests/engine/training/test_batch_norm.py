"""Batch norm over several CPU processes is that of one process on the whole batch."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from launch import forked
from mmengine.model import BaseModel
from small_run import Config, Noise
from torch import Tensor, nn

from convmae.backbones.convvitseg import SyncBatchNorm2d
from convmae.engine.options import ScheduleOptions
from convmae.engine.training.batch_norm import synchronise_on_cpu
from convmae.engine.training.train import train

PICTURES = 7  # of which the first processes have the parts below


class Outcome(NamedTuple):
    """What two steps of a norm give, and what they leave."""

    outputs: Tensor
    gradients: list[Tensor]  # of the pictures, then of weight and bias
    statistics: list[Tensor]


def pictures(dtype: torch.dtype, shape: tuple[int, ...] = (5, 3)) -> Tensor:
    """Maps far from zero, as E3's are."""
    generator = torch.Generator().manual_seed(0)
    return (100 + torch.randn(PICTURES, 4, *shape, generator=generator, dtype=torch.float64)).to(dtype)


def steps(norm: nn.Module, x: Tensor, weigh: Tensor, amp: bool = False) -> Outcome:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        norm(x.detach() * 2)
        outputs = norm(x)
    (outputs.float() * weigh if amp else outputs * weigh).sum().backward()
    statistics = [buffer.clone() for buffer in norm.buffers()]
    return Outcome(outputs.detach(), [x.grad, *(one.grad for one in norm.parameters())], statistics)


def made(kind: type, dtype: torch.dtype, **options: object) -> nn.Module:
    norm = kind(4, **options).to(dtype)
    if norm.affine:
        nn.init.uniform_(norm.weight.data, generator=torch.Generator().manual_seed(1))
        nn.init.uniform_(norm.bias.data, generator=torch.Generator().manual_seed(2))
    return norm


@pytest.mark.parametrize(
    ("dtype", "tolerance", "parts", "options"),
    [
        (torch.float64, 1e-9, [3, 4], {}),
        (torch.float32, 1e-5, [3, 4], {}),
        (torch.float64, 1e-9, [7, 0], {"momentum": None}),
        (torch.float64, 1e-9, [1, 2, 4], {"affine": False}),
        (torch.float64, 1e-9, [3, 4], {"track_running_stats": False}),
    ],
)
def test_processes_do_together_what_one_does(
    dtype: torch.dtype, tolerance: float, parts: list[int], options: dict, tmp_path: Path
) -> None:
    x = pictures(dtype)
    weigh = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    whole = steps(made(nn.BatchNorm2d, dtype, **options), x, weigh)

    def part(rank: int) -> Outcome:
        norm = synchronise_on_cpu(nn.Sequential(made(SyncBatchNorm2d, dtype, **options)))[0]
        return steps(norm, x.split(parts)[rank], weigh.split(parts)[rank])

    found = forked(part, tmp_path, len(parts))
    same = lambda one, other: torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)  # noqa: E731
    same(torch.cat([one.outputs for one in found]), whole.outputs)
    same(torch.cat([one.gradients[0] for one in found]), whole.gradients[0])
    for place in range(1, len(whole.gradients)):
        same(sum(one.gradients[place] for one in found), whole.gradients[place])
    for one in found:
        same(one.statistics, whole.statistics)
        assert all(torch.equal(*both) for both in zip(one.statistics, found[0].statistics, strict=True))


def test_in_bf16_it_gives_bf16_near_that_of_one(tmp_path: Path) -> None:
    x = pictures(torch.float32).bfloat16() - 100
    weigh = torch.ones(x.shape)
    whole = steps(made(nn.BatchNorm2d, torch.float32), x, weigh, amp=True)

    def part(rank: int) -> Outcome:
        norm = synchronise_on_cpu(made(nn.SyncBatchNorm, torch.float32))
        return steps(norm, x.split([3, 4])[rank], weigh.split([3, 4])[rank], amp=True)

    found = forked(part, tmp_path)
    assert found[0].outputs.dtype == whole.outputs.dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([one.outputs for one in found]), whole.outputs, rtol=8e-3, atol=4e-3)
    torch.testing.assert_close(found[0].statistics, whole.statistics, rtol=1e-5, atol=1e-5)


def test_a_batch_without_any_picture_changes_nothing(tmp_path: Path) -> None:
    def part(rank: int) -> Outcome:
        return steps(synchronise_on_cpu(made(nn.SyncBatchNorm, torch.float32)), torch.ones(0, 4, 2, 2), torch.ones(()))

    for one in forked(part, tmp_path):
        assert one.outputs.shape == (0, 4, 2, 2)
        assert [value.tolist() for value in one.statistics] == [[0.0] * 4, [1.0] * 4, 0]
        assert not any(gradient.any() for gradient in one.gradients)


def test_names_parameters_and_evaluation_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), SyncBatchNorm2d(4), nn.SyncBatchNorm(4))
    before, parameters = model.state_dict(), list(model.parameters())
    synchronised = synchronise_on_cpu(model)
    assert list(synchronised.state_dict()) == list(before)
    assert all(one is other for one, other in zip(synchronised.parameters(), parameters, strict=True))
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(synchronised.eval()(x), model[0](x), rtol=1e-4, atol=1e-4)


class Model(BaseModel):
    """A model with a batch norm over all processes, and one over each one's own pictures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.SyncBatchNorm(32), nn.BatchNorm1d(32))

    def forward(self, x: Tensor, mode: str = "loss") -> dict:
        return {"loss": (self.layers(x) - 1).square().mean()}


def trained(folder: Path, save_every: int) -> tuple[list[str], dict[str, Tensor]]:
    """Returns the kinds of norm that a run of a few steps has trained, and what it leaves."""
    config = Config(schedule=ScheduleOptions(steps=4, save_every=save_every))
    config.data.batch_size = 6
    folder.mkdir(exist_ok=True)
    model = train(Model(), Noise(), config=config, work_dir=folder).bare_model
    return [type(layer).__name__ for layer in model.layers], model.state_dict()


def test_checkpoints_change_nothing_that_all_processes_have_alike(tmp_path: Path) -> None:
    often, seldom = (forked(lambda _: trained(tmp_path / str(n), n), tmp_path, 3)[0][1] for n in (1, 4))  # noqa: B023
    for name in ("layers.1.running_mean", "layers.1.running_var"):
        assert torch.equal(often[name], seldom[name])
    torch.testing.assert_close(often["layers.2.running_var"], seldom["layers.2.running_var"])


def test_one_process_that_torchrun_started_has_plain_batch_norm(tmp_path: Path) -> None:
    ((kinds, _),) = forked(lambda _: trained(tmp_path / "run", 4), tmp_path, 1)
    assert kinds == ["Linear", "_BatchNormXd", "BatchNorm1d"]
