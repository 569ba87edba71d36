"""The parts of mmseg and mmcv that are used here, imported in silence.

On import they print a line about an absent commercial package and warn of compiled operators that nothing here needs.
"""

import contextlib
import io
import warnings
from importlib.util import find_spec

from convmae.engine.machine.mmcv_operators import provide

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    if find_spec("mmdet"):  # mmseg imports its models, which look for operators then
        provide()
    from mmcv.image.geometric import rescale_size
    from mmcv.transforms import RandomFlip, RandomResize
    from mmseg.datasets import ADE20KDataset
    from mmseg.datasets.transforms import PackSegInputs, PhotoMetricDistortion, RandomCrop
    from mmseg.evaluation import IoUMetric
    from mmseg.models import FCNHead, SegDataPreProcessor, UPerHead
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

__all__ = [
    "MODELS",
    "ADE20KDataset",
    "BaseDecodeHead",
    "EncoderDecoder",
    "FCNHead",
    "IoUMetric",
    "PackSegInputs",
    "PhotoMetricDistortion",
    "RandomCrop",
    "RandomFlip",
    "RandomResize",
    "SegDataPreProcessor",
    "SegDataSample",
    "UPerHead",
    "rescale_size",
]
