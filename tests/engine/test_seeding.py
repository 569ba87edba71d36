"""Randomness follows from seed, epoch and sample."""

import itertools
import random

import numpy as np
import pytest
import torch

from convmae.engine.seeding import SampleKey, SeededDataset, StepSampler, seed_all


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_key_gives_the_same_draws_and_another_gives_others() -> None:
    def drawn(*key: int) -> tuple[float, float, float]:
        seed_all(*key)
        return draws()

    keys = [(0, 1, 2), (0, 2, 1), (0, 12), (1, 1, 2), (0, 1)]
    assert all(drawn(*key) == drawn(*key) for key in keys)
    values = np.array([drawn(*key) for key in keys])
    assert all(len(set(column)) == len(keys) for column in values.T)


def take(steps: int, **kwargs: int) -> list[list[SampleKey]]:
    sampler = StepSampler(10, 4, 0, **kwargs)
    return list(itertools.islice(iter(sampler), steps * kwargs.get("parts", 1)))


def test_each_epoch_passes_every_sample_once_in_another_order() -> None:
    keys = [key for batch in take(5) for key in batch]
    first, second = [k.index for k in keys[:10]], [k.index for k in keys[10:]]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [key.epoch for key in keys] == [0] * 10 + [1] * 10


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_parts_split_the_same_global_batches(world: int, parts: int) -> None:
    whole = take(5)
    split = [take(5, rank=rank, world=world, parts=parts) for rank in range(world)]
    for step in range(5):
        shares = [split[rank][step * parts + part] for part in range(parts) for rank in range(world)]
        assert [key for share in shares for key in share] == whole[step]


def test_a_sampler_starts_at_any_step() -> None:
    sampler = StepSampler(10, 4, 0)
    sampler.start_step = 3
    assert next(iter(sampler)) == take(4)[3]


@pytest.mark.parametrize(("length", "kwargs"), [(0, {}), (10, {"parts": 3}), (10, {"world": 8})])
def test_what_does_not_divide_is_refused(length: int, kwargs: dict) -> None:
    with pytest.raises(ValueError, match=r"expected at least one|does not divide"):
        StepSampler(length, 4, 0, **kwargs)


def test_a_sample_does_not_depend_on_what_was_read_before() -> None:
    class Draws:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> tuple:
            return draws()

    dataset = SeededDataset(Draws(), seed=3)
    alone = dataset[SampleKey(1, 2)]
    _ = dataset[SampleKey(1, 1)]
    assert dataset[SampleKey(1, 2)] == alone
    assert dataset[SampleKey(2, 2)] != alone


def test_the_seed_is_as_good_as_pytorchs_own() -> None:
    seed_all(3, 1, 2)
    found, seed = torch.rand(4), torch.initial_seed()
    torch.manual_seed(seed)
    assert torch.equal(torch.rand(4), found)
