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
    assert tuple(bench_encoder.WORK) == options.MODES
    assert tuple(bench_pretrain.METHODS) == options.METHODS
    assert tuple(bench_frameworks.OTHERS) == options.FRAMEWORKS
    assert tuple(bench_predict.RECIPES) == options.DETECTORS
    assert tuple(item.name for item in bench_gpu.ITEMS) == options.ITEMS


@pytest.mark.parametrize("name", COMPARISONS)
def test_defaults_are_among_the_choices(name: str) -> None:
    parser = argparse.ArgumentParser()
    getattr(options, name)(parser)
    for action in parser._actions:
        if action.choices is not None and action.default is not None:
            chosen = action.default if isinstance(action.default, list) else [action.default]
            assert set(chosen) <= set(action.choices), action.dest
