"""The methods by name, for configs: sft, gmt, random, hft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gmt_core.gradient_mask import GradientMask, Scope
from gmt_core.half_fine_tuning import HalfFineTuning
from gmt_core.magnitudes import Saliency
from gmt_core.method import SFT, Method
from gmt_core.method_config import MethodConfig
from gmt_core.naming import one_of
from gmt_core.random_mask import RandomMask
from gmt_core.ratios import Ratio
from gmt_core.schedule import Hold

__all__ = ["NAMES", "Method", "build_method", "method_from_config"]

NAMES: Final = ("gmt", "sft", "random", "hft")
_FIXED_RATIOS: Final = {"sft": 0.0, "hft": 0.5}


def build_method(
    name: str,
    mask_ratio: Ratio | Mapping[str, Ratio] | None = None,
    *,
    scope: Scope = "tensor",
    saliency: Saliency = "gradient",
    hold: Hold = None,
    seed: int | None = None,
) -> Method:
    """The method of a name: "gmt", "sft", "random" or "hft".

    Args:
        name: of the method.
        mask_ratio: required by "gmt" and "random"; of "sft" 0, of "hft" 0.5, or None.
        scope: of "gmt", see `GradientMask`.
        saliency: of "gmt", see `GradientMask`.
        hold: of "gmt" and "random", see `GradientMask`.
        seed: of "random" and "hft"; None is 0.

    Raises:
        ValueError: an unknown name, an option that the method does not take, or a bad value.
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
    if fixed is not None and hold is not None:
        raise ValueError(f"hold: an option of gmt and random, found {hold!r} for method {name}")
    seed = 0 if seed is None else seed
    if name == "sft":
        return SFT()
    if name == "hft":
        return HalfFineTuning(seed)
    if mask_ratio is None:
        raise ValueError(f"mask_ratio: method {name} needs one, a number in [0, 1)")
    if name == "random":
        return RandomMask(mask_ratio, seed, hold=hold)
    return GradientMask(mask_ratio, scope, saliency=saliency, hold=hold)


def method_from_config(config: MethodConfig) -> Method:
    """The method that a config describes.

    Raises:
        ValueError: as `build_method`.
    """
    return build_method(**vars(config))
