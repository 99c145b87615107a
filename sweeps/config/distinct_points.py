"""Which points are the same one, and how many a space has: each is trained once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from sweeps.config.space import MASKING, SpaceConfig

Identity = tuple[str | float | None, ...]


def identity(space: SpaceConfig, params: Mapping[str, Any]) -> Identity:
    """What two equal points share; None stands for a value that the space does not hold.

    ``params``: as Optuna stores them, or a whole point.
    """
    point: dict[str, Any] = space.point(params)
    places = {name: p.place(point[name]) for name, p in space.parameters().items()}
    if space.method is None:
        return tuple(places.values())
    method = point.get("method")
    masking = {} if method in MASKING else {"mask_ratio": 0.0}
    return method if method in space.method else None, *(places | masking).values()


def is_whole(params: Mapping[str, Any]) -> bool:
    """Whether a trial's point has been drawn; its rate is the last that is."""
    return {"accumulation_interval", "learning_rate"} <= params.keys()


def size(space: SpaceConfig) -> int | None:
    """How many points the space has; None: endlessly many."""
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
    """How many of ``trials`` are still to be drawn, each at a point of its own.

    ``begun``: the points of those that need no drawing any more. Some may be equal, of a study
    that is older than this rule, or outside of a space whose ends were changed.
    """
    left, points = trials - len(begun), size(space)
    if points is not None:
        known = {identity(space, point) for point in begun if is_whole(point)}
        left = min(left, points - sum(None not in one for one in known))
    return max(0, left)


def shortfall(trials: int, space: SpaceConfig) -> str:
    """A sentence where the space has fewer points than trials are asked for; else empty."""
    points = size(space)
    if points is None or points >= trials:
        return ""
    some = "1 point, which" if points == 1 else f"{points} points, each of which"
    return f"search.trials is {trials}, but the space has only {some} is trained once"
