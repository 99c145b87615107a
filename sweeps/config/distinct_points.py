"""When two points of a space are equal, and how many points it has; each is trained once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from sweeps.config.space import MASKING, SpaceConfig

Identity = tuple[str | float | None, ...]


def identity(space: SpaceConfig, params: Mapping[str, Any]) -> Identity:
    """A key that is the same for equal points; None stands for a value outside the space.

    ``params``: the parameters as Optuna stores them, or a complete point.
    """
    point: dict[str, Any] = space.point(params)
    places = {name: p.place(point[name]) for name, p in space.parameters().items()}
    if space.method is None:
        return tuple(places.values())
    method = point.get("method")
    masking = {} if method in MASKING else {"mask_ratio": 0.0}
    return method if method in space.method else None, *(places | masking).values()


def is_whole(params: Mapping[str, Any]) -> bool:
    """Whether all parameters of a trial have been drawn; the learning rate is drawn last."""
    return {"accumulation_interval", "learning_rate"} <= params.keys()


def size(space: SpaceConfig) -> int | None:
    """The number of points in the space; None if it is infinite."""
    counts = {name: p.count() for name, p in space.parameters().items()}
    total = 0
    for method in space.method or MASKING[:1]:
        own = [n for name, n in counts.items() if name != "mask_ratio" or method in MASKING]
        finite = [n for n in own if n is not None]
        if len(finite) < len(own):
            return None
        total += prod(finite)
    return total


def trials_left(trials: int, space: SpaceConfig, begun: Sequence[Mapping[str, Any]]) -> int:
    """How many of ``trials`` are still to be drawn, each at a new point.

    ``begun``: the points that are already drawn. Studies from before this rule may hold equal
    points, and a space whose bounds were changed may leave some outside.
    """
    left, points = trials - len(begun), size(space)
    if points is not None:
        known = {identity(space, point) for point in begun if is_whole(point)}
        left = min(left, points - sum(None not in one for one in known))
    return max(0, left)


def shortfall(trials: int, space: SpaceConfig) -> str:
    """A sentence if the space has fewer points than the trials asked for; else empty."""
    points = size(space)
    if points is None or points >= trials:
        return ""
    some = "1 point" if points == 1 else f"{points} points"
    return f"search.trials is {trials}, but the space has only {some}; each is trained once"
