"""k-NN against a plain count, the linear probe on features that a line separates, scores by hand."""

import math

import pytest
import torch

from convmae.classification.config import LinearProbeOptions
from convmae.classification.evaluation.accuracy import Prediction, score
from convmae.engine.probes.features import Features
from convmae.engine.probes.knn import knn_scores, standardize
from convmae.engine.probes.linear import ProbeHead, build_lars, lr_factor, train_probes

CPU = torch.device("cpu")


def blobs(count: int, seed: int) -> Features:
    """Three classes around three points, one channel of which is large and says nothing, as raw E3 has them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    values = centres[labels] + 0.3 * torch.randn(count, 3, generator=generator)
    values = torch.cat([values, 60 + torch.randn(count, 1, generator=generator)], 1)
    return Features(values, labels, torch.arange(count) + 1000 * seed)


def test_votes_are_those_of_a_plain_count() -> None:
    train, val = blobs(40, 0), blobs(7, 1)
    found = knn_scores(train, val, 3, [1, 5, 40], 0.1, CPU)
    mean, deviation = train.values.mean(0), train.values.std(0, correction=0)
    for row, query in enumerate((val.values - mean) / deviation):
        likeness = [
            (float(torch.cosine_similarity(query, (value - mean) / deviation, dim=0)), int(label))
            for value, label in zip(train.values, train.labels, strict=True)
        ]
        likeness.sort(reverse=True)
        for k, votes in found.items():
            counted = torch.zeros(3, dtype=torch.float64)
            for similarity, label in likeness[:k]:
                counted[label] += math.exp(similarity / 0.1)
            torch.testing.assert_close(votes[row], (counted / counted.sum()).float(), rtol=1e-3, atol=1e-5)


def test_a_few_similarities_at_a_time_count_the_same_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = blobs(40, 0), blobs(7, 1)
    whole = knn_scores(train, val, 3, [5], 0.1, CPU)
    monkeypatch.setattr("convmae.engine.probes.knn.SIMILARITIES", 100)
    torch.testing.assert_close(knn_scores(train, val, 3, [5], 0.1, CPU)[5], whole[5])


def test_a_picture_is_not_its_own_neighbour() -> None:
    """Random labels, which nothing but the picture itself tells."""
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(300, 8, generator=generator), torch.randint(4, (300,), generator=generator)
    contents = torch.arange(300) // 2  # each picture is there twice, under two labels
    train = Features(values[contents * 2], labels, contents)
    order = torch.randperm(300, generator=generator)
    again = Features(*(one[order] for one in train))
    found = knn_scores(train, again, 4, [1, 20], 0.07, CPU)
    for k, votes in found.items():
        assert abs((votes.argmax(1) == again.labels).float().mean() - 0.25) < 0.1, k
        torch.testing.assert_close(votes.sum(1), torch.ones(300))
    # The votes are those that the training pictures without the picture give.
    one = int(order[0])
    left = contents != contents[one]
    likeness = torch.nn.functional.cosine_similarity(
        *(standardize(train.values, x) for x in (again.values[:1], train.values))
    )
    nearest = likeness.masked_fill(~left, -2).argmax()
    assert found[1][0].argmax() == labels[nearest]


def test_where_no_neighbour_is_left_no_class_is_preferred() -> None:
    train = Features(torch.randn(2, 4), torch.tensor([0, 0]), torch.tensor([7, 7]))
    assert torch.equal(knn_scores(train, train, 3, [1, 5], 0.07, CPU)[5], torch.full((2, 3), 1 / 3))


def test_more_neighbours_than_pictures_are_all_pictures() -> None:
    train, val = blobs(10, 0), blobs(3, 1)
    found = knn_scores(train, val, 3, [10, 500], 0.07, CPU)
    assert torch.equal(found[10], found[500])


def test_separable_features_are_separated_and_rates_do_not_mix() -> None:
    train, val = blobs(300, 0), blobs(90, 1)
    options = LinearProbeOptions(epochs=60, batch_size=100, lrs=[0.0, 3.0], warmup=5)
    idle, probe = train_probes([train], val.values, 3, options, 0, CPU)
    assert (idle.lr, probe.lr) == (0.0, 3.0)
    assert (probe.probabilities.argmax(1) == val.labels).float().mean() > 0.85
    assert probe.loss < idle.loss
    alone = train_probes([train], val.values, 3, LinearProbeOptions(60, 100, [3.0], 5), 0, CPU)[0]
    assert torch.equal(alone.probabilities, probe.probabilities)


def test_a_step_of_lars_is_scaled_to_the_norm_of_the_matrix_alone() -> None:
    torch.manual_seed(0)
    head, lr = ProbeHead(8, 3), 0.5
    weight, bias = head.linear.weight.detach().clone(), head.linear.bias.detach().clone()
    moved = [torch.zeros_like(weight), torch.zeros_like(bias)]
    optimizer = build_lars(head, lr)
    for _ in range(3):
        x, labels = torch.randn(16, 8), torch.randint(3, (16,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(x), labels).backward()
        grads = [head.linear.weight.grad.clone(), head.linear.bias.grad.clone()]
        grads[0] *= 1e-3 * weight.norm() / grads[0].norm()
        moved = [0.9 * old + grad for old, grad in zip(moved, grads, strict=True)]
        weight, bias = weight - lr * moved[0], bias - lr * moved[1]
        optimizer.step()
        torch.testing.assert_close(head.linear.weight.detach(), weight)
        torch.testing.assert_close(head.linear.bias.detach(), bias)


def test_the_probes_schedule_warms_up_and_ends_at_zero() -> None:
    options = LinearProbeOptions(epochs=90, warmup=10)
    assert [lr_factor(epoch, options) for epoch in (0, 5, 10, 50, 90)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_scores_by_hand() -> None:
    rows = [(0, [0, 1, 2, 3, 4]), (0, [5, 4, 3, 2, 0]), (1, [5, 4, 3, 2, 0]), (5, [5, 1, 2, 3, 4])]
    predictions = [Prediction(place, label, top, 0.5) for place, (label, top) in enumerate(rows)]
    numbers, details = score(predictions, list("abcdef"))
    assert numbers == pytest.approx({"top1": 0.5, "top5": 0.75, "class_mean": (0.5 + 0 + 1) / 3})
    assert details.confusion.sum() == 4
    assert (details.confusion[0, 0], details.confusion[0, 5], details.confusion[1, 5]) == (1, 1, 1)
    assert math.isnan(details.accuracy[2])
