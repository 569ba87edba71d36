"""The moving average of weights: what it holds, and where it stands in."""

import torch
from torch import nn

from convmae.engine.training.average import WeightAverage


def test_it_is_the_exponential_average_after_a_warm_up_of_the_decay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.5)
    expected = model[0].weight.detach().clone()
    for step in range(1, 13):
        with torch.no_grad():
            model[0].weight.normal_()
        average.update()
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.values["0.weight"], expected)
    assert "1.running_mean" not in average.values


def test_in_its_place_the_model_computes_with_it_and_then_goes_on_with_its_own() -> None:
    model = nn.Linear(2, 1)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1)
    own, kept = model.weight.detach().clone(), average.values["weight"].clone()
    with average.in_place():
        assert torch.equal(model.weight, kept)
    assert torch.equal(model.weight, own)
    assert torch.equal(average.values["weight"], kept)
