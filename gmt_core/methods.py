"""The methods by name, for configs: sft, gmt, random, hft."""

from __future__ import annotations

from typing import Final

from gmt_core.gradient_mask import GradientMask, Scope
from gmt_core.half_fine_tuning import HalfFineTuning
from gmt_core.magnitudes import Saliency
from gmt_core.method import SFT, Method
from gmt_core.naming import one_of
from gmt_core.random_mask import RandomMask
from gmt_core.schedule import RatioSchedule

__all__ = ["NAMES", "Method", "build_method"]

NAMES: Final = ("gmt", "sft", "random", "hft")
_FIXED_RATIOS: Final = {"sft": 0.0, "hft": 0.5}


def build_method(
    name: str,
    mask_ratio: float | RatioSchedule | None = None,
    *,
    scope: Scope = "tensor",
    saliency: Saliency = "gradient",
    seed: int = 0,
) -> Method:
    """The method of that name; raises ValueError on any other, and on options it does not take.

    gmt and random need a mask_ratio; sft (0) and hft (0.5) may be given their own.
    """
    one_of("method", name, NAMES)
    if name != "gmt" and (scope, saliency) != ("tensor", "gradient"):
        raise ValueError(
            f"method {name}: scope and saliency are options of gmt, found {scope!r}, {saliency!r}"
        )
    fixed = _FIXED_RATIOS.get(name)
    if fixed is not None and mask_ratio not in (None, fixed):
        does = "masks nothing" if name == "sft" else "freezes half of each block"
        raise ValueError(
            f"mask_ratio: method {name} {does}, expected {fixed:g}, found {mask_ratio}"
        )
    if name == "sft":
        return SFT()
    if name == "hft":
        return HalfFineTuning(seed)
    if mask_ratio is None:
        raise ValueError(f"mask_ratio: method {name} needs one, a number in [0, 1)")
    if name == "random":
        return RandomMask(mask_ratio, seed)
    return GradientMask(mask_ratio, scope, saliency=saliency)
