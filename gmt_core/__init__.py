"""Gradient-Mask Tuning for any torch optimizer; needs torch and nothing else.

from gmt_core import GradientMask, GradientMasker
masker = GradientMasker(GradientMask(mask_ratio=0.2)).attach(optimizer)
"""

from __future__ import annotations

from gmt_core.delta import one_off_drop
from gmt_core.errors import NonFiniteGradientError
from gmt_core.gradient_mask import GradientMask
from gmt_core.half_fine_tuning import HalfFineTuning
from gmt_core.mask_statistics import MaskStatistics
from gmt_core.masker import GradientMasker
from gmt_core.method import SFT, Method
from gmt_core.method_config import MethodConfig
from gmt_core.methods import build_method, method_from_config
from gmt_core.random_mask import RandomMask
from gmt_core.schedule import RatioSchedule
from gmt_core.threshold import (
    kept_count,
    magnitude_threshold,
    magnitude_thresholds,
    pooled_threshold,
)

__all__ = [
    "SFT",
    "GradientMask",
    "GradientMasker",
    "HalfFineTuning",
    "MaskStatistics",
    "Method",
    "MethodConfig",
    "NonFiniteGradientError",
    "RandomMask",
    "RatioSchedule",
    "build_method",
    "kept_count",
    "magnitude_threshold",
    "magnitude_thresholds",
    "method_from_config",
    "one_off_drop",
    "pooled_threshold",
]
