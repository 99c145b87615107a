"""The learning rate of each update, and the updates after which the model is scored."""

from __future__ import annotations

import math


def learning_rate(update: int, *, steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up, then half a cosine to zero, for `update` in [0, steps).

    The same numbers as transformers' cosine schedule as its Trainer drives it, so that runs
    compare: `ceil(warmup_ratio * steps)` warm-up updates, the first at rate 0.
    """
    warmup = math.ceil(warmup_ratio * steps)
    if update < warmup:
        return peak * update / max(1, warmup)
    progress = (update - warmup) / max(1, steps - warmup)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def check_steps(steps: int, checks: int) -> tuple[int, ...]:
    """At most `checks` evenly spaced updates (1-based, ascending), the last one `steps`."""
    return tuple(sorted({math.ceil(steps * part / checks) for part in range(1, checks + 1)}))
