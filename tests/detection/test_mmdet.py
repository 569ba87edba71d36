"""mmdet's own tools train, evaluate and detect with ConvViTDet by the shipped configs, as this project does."""

import json
import runpy
import sys
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet", reason="mmdet is not installed (docs/mmdetection.md says how)")

import convmae.detection.mmdet as adapter

import mmdet  # isort: skip  (after the adapter, which gives it its operators)
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from convmae import backbones
