"""One model of each task with random weights, as their runs leave them."""

from pathlib import Path

import pytest
from small_states import write_classifier, write_segmenter
from tiny_detector import write_run


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("det")
    write_run(folder)
    return folder / "model.pth"


@pytest.fixture(scope="session")
def segmenter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_segmenter(tmp_path_factory.mktemp("seg") / "model.pth")


@pytest.fixture(scope="session")
def classifier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("cls") / "model.pth")
