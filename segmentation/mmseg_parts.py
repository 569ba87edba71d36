"""The parts of mmseg and mmcv that are used here, imported in silence.

On import they print a line about an absent commercial package and warn of compiled operators that nothing here needs.
"""

import contextlib
import io
import warnings

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mmcv.transforms import RandomFlip, RandomResize
    from mmseg.datasets import ADE20KDataset
    from mmseg.datasets.transforms import PackSegInputs, PhotoMetricDistortion, RandomCrop, Resize
    from mmseg.models import FCNHead, SegDataPreProcessor, UPerHead
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

__all__ = [
    "MODELS",
    "ADE20KDataset",
    "EncoderDecoder",
    "FCNHead",
    "PackSegInputs",
    "PhotoMetricDistortion",
    "RandomCrop",
    "RandomFlip",
    "RandomResize",
    "Resize",
    "SegDataPreProcessor",
    "SegDataSample",
    "UPerHead",
]
