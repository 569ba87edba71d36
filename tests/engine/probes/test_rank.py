"""RankMe against the paper's formula, written out."""

import numpy as np
import pytest
import torch

from convmae.engine.probes import rank
from convmae.engine.probes.rank import rank_me


def test_it_is_the_exponential_of_the_entropy_of_the_singular_values() -> None:
    values = np.random.default_rng(0).normal(size=(60, 7)) * np.geomspace(1, 100, 7)
    singular = np.linalg.svd(values, compute_uv=False)
    part = singular / singular.sum() + 1e-7
    assert rank_me(torch.from_numpy(values).float()) == pytest.approx(np.exp(-(part * np.log(part)).sum()), rel=1e-5)


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_directions_that_weigh_the_same_are_counted(directions: int) -> None:
    values = torch.eye(8)[torch.arange(24) % directions]
    assert rank_me(values) == pytest.approx(directions, rel=1e-4)


def test_of_many_features_some_are_taken_from_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "_MOST", 10)
    values = torch.eye(4).repeat_interleave(8, 0)
    assert rank_me(values) == pytest.approx(4, rel=1e-4)


def test_features_of_nothing_have_a_number() -> None:
    assert np.isfinite(rank_me(torch.zeros(5, 3)))
