"""Mask ratios of a model's parameters: one for all, or one for each name pattern."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from gmt_core.naming import matching
from gmt_core.schedule import Hold, RatioSchedule, as_schedule, checked_hold

Ratio = float | RatioSchedule
REST: Final = "*"  # the pattern of all parameters that no other pattern fits


@final
@dataclass(frozen=True)
class Ratios:
    """A schedule for each name pattern; parameters that no pattern fits are not masked."""

    schedules: Mapping[str, RatioSchedule]

    @classmethod
    def of(cls, given: Ratio | Mapping[str, Ratio]) -> Ratios:
        """Read a number, a schedule, or {"*mlp*": 0.5, "*": 0.2}; ValueError on anything else."""
        if not isinstance(given, Mapping):
            return cls({REST: as_schedule(given)})
        if not given or not all(isinstance(pattern, str) for pattern in given):
            raise ValueError(
                "mask_ratio: expected a ratio for each name pattern, as {'*mlp*': 0.5}, "
                f"found {given!r}"
            )
        return cls({pattern: as_schedule(ratio) for pattern, ratio in given.items()})

    @property
    def by_name(self) -> bool:
        """Whether the names of the parameters are read."""
        return set(self.schedules) != {REST}

    @property
    def ends(self) -> Any:
        """The ratio at the end of its schedule, or one for each pattern."""
        ends = {pattern: schedule.end for pattern, schedule in self.schedules.items()}
        return ends if self.by_name else ends[REST]

    @property
    def given(self) -> Any:
        """As `of` takes it: a number where it is constant, otherwise a schedule."""
        found = {
            pattern: schedule.end if schedule.is_constant else schedule
            for pattern, schedule in self.schedules.items()
        }
        return found if self.by_name else found[REST]

    def checked_hold(self, hold: object) -> Hold:
        """For how many updates a mask of these ratios serves; ValueError where that cannot be."""
        constant = all(schedule.is_constant for schedule in self.schedules.values())
        if hold == "training" and not constant:
            raise ValueError(
                "hold: 'training' draws one mask, at the first update, and so expects a constant "
                "mask_ratio; hold a count of updates to follow a schedule"
            )
        return checked_hold(hold)

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError on a pattern that fits no name, and on a name that fits several."""
        matching("mask_ratio", [p for p in self.schedules if p != REST], names)
        for name in names:
            self.pattern_of(name)

    def pattern_of(self, name: str) -> str | None:
        """The one pattern that fits, REST where none does; None for a parameter not masked."""
        if not self.by_name:
            return REST
        fits = [p for p in self.schedules if p != REST and fnmatch.fnmatchcase(name, p)]
        if len(fits) > 1:
            raise ValueError(
                f"mask_ratio: {name} fits {' and '.join(map(repr, fits))}; expected at "
                f"most one fitting pattern for each name ({REST!r} stands for the others)"
            )
        return fits[0] if fits else REST if REST in self.schedules else None

    def at(self, pattern: str | None, update: int) -> float:
        """The mask ratio of a pattern's parameters at the 0-based `update`."""
        return 0.0 if pattern is None else self.schedules[pattern](update)
