"""What a method was built with, as a value that round-trips through JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, final

from gmt_core.naming import one_of
from gmt_core.schedule import Hold, RatioSchedule


@final
@dataclass(frozen=True)
class MethodConfig:
    """The arguments of `build_method`, as a value that round-trips through JSON.

    Arguments that a method does not take have their default.
    """

    name: str
    """One of gmt, sft, random and hft."""
    mask_ratio: Any = None
    """A number in [0, 1), a `RatioSchedule`, or one of them for each name pattern."""
    scope: str = "tensor"
    """As in `GradientMask`."""
    saliency: str = "gradient"
    """As in `GradientMask`."""
    hold: Hold = None
    """As in `GradientMask`."""
    seed: int | None = None
    """Of `RandomMask` and `HalfFineTuning`."""

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts and dictionaries of them."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: object) -> MethodConfig:
        """Read what `to_json` returned.

        Raises:
            ValueError: an unknown key, or a bad schedule.
        """
        if not isinstance(found, Mapping) or "name" not in found:
            raise ValueError(f"method: expected {{'name': 'gmt', ...}}, found {found!r}")
        for key in found:
            one_of("method", key, [field.name for field in fields(cls)])
        return cls(**{**found, "mask_ratio": _ratio(found.get("mask_ratio"))})


def _ratio(found: Any) -> Any:
    if not isinstance(found, Mapping):
        return found
    if "end" not in found:
        return {pattern: _ratio(ratio) for pattern, ratio in found.items()}
    for key in found:
        one_of("schedule", key, [field.name for field in fields(RatioSchedule)])
    return RatioSchedule(**found)
