"""When two points of a space are equal, and how many trials it has left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.config.space import SpaceConfig
from sweeps.config.trial_keys import Value

Identity = tuple[Value | None, ...]

ABSENT = "absent"
"""The place of a parameter that a point does not have."""


def identity(space: SpaceConfig, params: Mapping[str, Any]) -> Identity:
    """A key that is the same for equal points; None stands for a value outside the space.

    ``params``: the parameters as Optuna stores them, or a complete point.
    """
    active = space.active(params)
    return tuple(
        each.place(params.get(name)) if name in active else ABSENT
        for name, each in space.parameters().items()
    )


def is_whole(space: SpaceConfig, params: Mapping[str, Any]) -> bool:
    """Whether all parameters of a trial have been drawn."""
    return space.active(params).keys() <= params.keys()


def trials_left(trials: int, space: SpaceConfig, begun: Sequence[Mapping[str, Any]]) -> int:
    """How many of ``trials`` are still to be drawn, each at a new point.

    ``begun``: the points that are already drawn. Studies from before this rule may hold equal
    points, and a space whose bounds were changed may leave some outside.
    """
    left, points = trials - len(begun), space.size()
    if points is not None:
        known = {identity(space, point) for point in begun if is_whole(space, point)}
        left = min(left, points - sum(None not in one for one in known))
    return max(0, left)


def shortfall(trials: int, space: SpaceConfig) -> str:
    """A sentence if the space has fewer points than the trials asked for; else empty."""
    points = space.size()
    if points is None or points >= trials:
        return ""
    some = "1 point" if points == 1 else f"{points} points"
    return f"search.trials is {trials}, but the space has only {some}; each is trained once"
