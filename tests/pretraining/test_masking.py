"""The masks: counts, order, and that complementary ones share everything out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convmae.pretraining.masking import complementary_masking, group_count, random_masking


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_least_noise_is_kept_as_in_mae() -> None:
    noise = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.3, 0.7, 0.1, 0.5]])
    (keep,) = random_masking(noise, 0.5)
    assert keep.tolist() == [[1, 3], [2, 0]]


@pytest.mark.parametrize(
    ("tokens", "ratio", "kept"),
    [(196, 0.75, 49), (196, 0.6, 78), (5, 0.8, 1), (10, 0.9, 1), (36, 0.75, 9), (10, 0.7, 3)],
)
def test_number_of_kept_tokens(tokens: int, ratio: float, kept: int) -> None:
    assert random_masking(torch.rand(3, tokens), ratio)[0].shape == (3, kept)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.99, -0.5, 1.5])
def test_a_ratio_that_leaves_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"mask_ratio {ratio} keeps"):
        random_masking(torch.rand(1, 16), ratio)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(2, 40), st.data())
def test_complementary_groups_share_all_tokens_out(batch: int, tokens: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(2, tokens))
    keep = complementary_masking(torch.rand(batch, tokens), groups)
    views = [ids.tolist() for entry in keep for ids in entry]
    assert len(views) == groups * batch
    sizes = [len(view) for view in views]
    assert max(sizes) - min(sizes) <= 1
    assert len({entry.shape[1] for entry in keep}) == len(keep)
    for image in range(batch):
        assert sorted(token for view in views[image::batch] for token in view) == list(range(tokens))


def test_groups_follow_one_shuffle() -> None:
    noise = torch.rand(2, 11)
    shuffle = noise.argsort(1)
    views = [ids for entry in complementary_masking(noise, 3) for ids in entry]
    for image in range(2):
        assert torch.equal(torch.cat(views[image::2]), shuffle[image])


@pytest.mark.parametrize(("ratio", "groups"), [(0.75, 4), (0.5, 2), (0.1, 2), (0.9, 10), (0.667, 3), (0.8, 5)])
def test_number_of_groups_at_a_ratio(ratio: float, groups: int) -> None:
    assert group_count(ratio) == groups


@pytest.mark.parametrize("groups", [0, 1, 17])
def test_groups_without_tokens_are_refused(groups: int) -> None:
    with pytest.raises(ValueError, match=f"{groups} complementary groups of 16 tokens"):
        complementary_masking(torch.rand(1, 16), groups)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_ratio_without_groups_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0 and less than 1"):
        group_count(ratio)
