"""The mask ratio, and the update at which a mask is drawn, as functions of the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, final

from gmt_core.checks import checked_count, checked_ratio
from gmt_core.naming import one_of

Shape = Literal["constant", "linear", "cosine"]
SHAPES: Final = ("constant", "linear", "cosine")
Hold = Literal["training"] | int | None


@final
@dataclass(frozen=True)
class RatioSchedule:
    """A mask ratio over the updates: from 0 to `start` in the warm-up, then to `end`.

    Raises:
        ValueError: a ratio outside [0, 1), an unknown shape, or counts that do not fit.
    """

    end: float
    """The last ratio, in [0, 1)."""
    shape: Shape = "constant"
    """Constant at `end`, or a line or half a cosine wave that reaches it and stays."""
    start: float = 0.0
    """The ratio after the warm-up; 0 for a constant schedule."""
    updates: int = 0
    """The update at which `end` is reached, counted from 0, the warm-up included."""
    warmup: int = 0
    """Updates over which the ratio rises from 0."""

    def __post_init__(self) -> None:
        """Check every number."""
        one_of("schedule shape", self.shape, SHAPES)
        numbers = {
            "end": checked_ratio("mask_ratio", self.end),
            "start": checked_ratio("schedule start", self.start),
            "warmup": checked_count("schedule warmup", self.warmup, "0 or more updates"),
            "updates": checked_count("schedule updates", self.updates, "a number of updates"),
        }
        vars(self).update(numbers)  # NumPy's, too, are saved as JSON
        if self.shape == "constant" and (self.start or self.updates):
            raise ValueError("schedule: shape constant takes neither start nor updates")
        if self.shape != "constant" and self.updates <= self.warmup:
            raise ValueError(
                f"schedule updates: expected more than the {self.warmup} of the warm-up, "
                f"found {self.updates}"
            )

    @property
    def is_constant(self) -> bool:
        """Whether every update has the same ratio."""
        return self == RatioSchedule(self.end)

    def __call__(self, update: int) -> float:
        """The mask ratio of the 0-based `update`."""
        first = self.end if self.shape == "constant" else self.start
        if update < self.warmup:
            return first * update / self.warmup
        if self.shape == "constant" or update >= self.updates:
            return self.end
        progress = (update - self.warmup) / (self.updates - self.warmup)
        if self.shape == "cosine":
            progress = 0.5 - 0.5 * math.cos(math.pi * progress)
        return self.start + (self.end - self.start) * progress


def as_schedule(mask_ratio: float | RatioSchedule) -> RatioSchedule:
    """A plain number is a constant schedule; raises ValueError outside [0, 1)."""
    if isinstance(mask_ratio, RatioSchedule):
        return mask_ratio
    return RatioSchedule(checked_ratio("mask_ratio", mask_ratio))


def checked_hold(found: object) -> Hold:
    """For how many updates one mask serves, "training" for all of them, None for one."""
    if found is None or found == "training":
        return found
    expected = "'training', a count of updates from 1, or None (a new mask for each update)"
    count = checked_count("hold", found, expected)
    if not count:
        raise ValueError(f"hold: expected {expected}, found 0")
    return count


def drawn_at(hold: Hold, update: int) -> int:
    """The update at which the mask of the 0-based `update` is drawn."""
    if hold == "training":
        return 0
    return update - update % (hold or 1)
