"""Erasing on the device gives what timm's does to each normalised picture in the loader."""

import random
from typing import Any

import pytest
import torch
from timm.data.random_erasing import RandomErasing

from convmae.classification.data.erasing import collate, draw_erasing, erase
from convmae.engine.pictures.images import normalize


def seeded(number: int) -> None:
    random.seed(number)
    torch.manual_seed(number)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_a_batch_of_bytes_is_erased_as_timm_erases_pictures(probability: float) -> None:
    images = torch.randint(0, 256, (12, 3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected, samples, kept = [], list[dict[str, Any]](), []
    for number, image in enumerate(images):
        seeded(number)
        expected.append(RandomErasing(probability, mode="pixel", device="cpu")(normalize(image[None])[0]))
        theirs = (random.random(), float(torch.rand(())))
        seeded(number)
        samples.append({"images": image, "labels": number, "erased": draw_erasing(probability, 3, 24, 32)})
        kept.append((random.random(), float(torch.rand(()))) == theirs)  # the draws after it are as they were
    batch = collate(samples)
    assert torch.equal(batch["images"], images)
    assert batch["labels"].tolist() == list(range(12))
    found = normalize(batch["images"])
    erase(found, **batch["erased"])
    assert torch.equal(found, torch.stack(expected))
    assert all(kept)
    assert len(batch["erased"]["boxes"]) == sum(sample["erased"] is not None for sample in samples)
    assert bool(batch["erased"]["boxes"]) == (probability > 0)
