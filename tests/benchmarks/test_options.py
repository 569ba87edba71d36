"""What options list without importing a comparison is what the comparison has."""

from __future__ import annotations

import argparse

import pytest

from convmae.benchmarks import (
    bench_detection,
    bench_encoder,
    bench_frameworks,
    bench_gpu,
    bench_predict,
    bench_pretrain,
    bench_segmentation,
    bench_steps,
    options,
)
from convmae.tools.benchmark import COMPARISONS


def test_names_are_those_of_the_comparisons() -> None:
    modules = {"detection": bench_detection, "segmentation": bench_segmentation, "steps": bench_steps}
    assert {name: tuple(module.TABLES) for name, module in modules.items()} == options.TABLES
    assert options.MODES == tuple(bench_encoder.WORK)
    assert options.METHODS == tuple(bench_pretrain.METHODS)
    assert options.FRAMEWORKS == tuple(bench_frameworks.OTHERS)
    assert options.DETECTORS == tuple(bench_predict.RECIPES)
    assert options.ITEMS == tuple(item.name for item in bench_gpu.ITEMS)


@pytest.mark.parametrize("name", COMPARISONS)
def test_defaults_are_among_the_choices(name: str) -> None:
    parser = argparse.ArgumentParser()
    getattr(options, name)(parser)
    for action in parser._actions:
        if action.choices is not None and action.default is not None:
            chosen = action.default if isinstance(action.default, list) else [action.default]
            assert set(chosen) <= set(action.choices), action.dest
