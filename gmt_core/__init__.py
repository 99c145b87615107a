"""Gradient-Mask Tuning for any torch optimizer; needs torch and nothing else.

from gmt_core import GradientMask, GradientMasker
masker = GradientMasker(GradientMask(mask_ratio=0.2)).attach(optimizer)
"""

from __future__ import annotations

from gmt_core.mask_statistics import MaskStatistics
from gmt_core.masker import GradientMasker
from gmt_core.methods import SFT, GradientMask, Method, RandomMask, build_method
from gmt_core.threshold import (
    NonFiniteGradientError,
    kept_count,
    magnitude_threshold,
    magnitude_thresholds,
    pooled_threshold,
)

__all__ = [
    "SFT",
    "GradientMask",
    "GradientMasker",
    "MaskStatistics",
    "Method",
    "NonFiniteGradientError",
    "RandomMask",
    "build_method",
    "kept_count",
    "magnitude_threshold",
    "magnitude_thresholds",
    "pooled_threshold",
]
