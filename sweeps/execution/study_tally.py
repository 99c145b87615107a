"""The state of a study while it runs, and the time that it has left."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, final


@final
@dataclass
class Tally:
    """The state of one study, kept by its observer. ``seconds``: of the trials that ended in this
    session, without the start of their workers; ``slots``: how many ran at once."""

    domain: str
    trials: int
    finished_before: int
    endings: Counter[str] = field(default_factory=Counter)
    running: dict[str, dict[str, Any]] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    seconds: list[float] = field(default_factory=list)
    slots: int = 1

    def begin(self, key: str, number: int, point: Mapping[str, Any]) -> None:
        """A trial starts."""
        self.running[key] = {"number": number, "point": point, "heard": time.monotonic()}
        self.slots = max(self.slots, len(self.running))

    def check(self, key: str, result: Mapping[str, Any]) -> None:
        """A trial has a validation result."""
        if key in self.running:
            found = {name: result[name] for name in ("step", "steps", "score") if name in result}
            self.running[key] = {**self.running[key], **found, "heard": time.monotonic()}

    def end(self, key: str, ended: Mapping[str, Any]) -> None:
        """A trial has this outcome."""
        self.running.pop(key, None)
        self.endings[ended["state"]] += 1
        self.seconds.append(ended["seconds"])

    def done(self) -> int:
        """The number of trials that need no further work."""
        return self.finished_before + sum(self.endings.values())

    def left(self) -> int:
        """The number of trials that have not ended."""
        return max(0, self.trials - self.done())

    def seconds_left(self) -> float | None:
        """Estimate until the last trial ends; None until the first of this session has ended.

        Each trial is taken to last as long as the later half of those that ended on average, since
        the first in each process take longer, and to start as soon as one of the slots is free.
        """
        if not self.seconds:
            return None
        each, now = mean(self.seconds[len(self.seconds) // 2 :]), time.monotonic()
        slots = [_left(run, each, now) for run in [*self.running.values()]]
        waiting = self.left() - len(slots)
        slots += [0.0] * (self.slots - len(slots))
        heapq.heapify(slots)
        for _ in range(waiting):
            heapq.heapreplace(slots, slots[0] + each)
        return max(slots)


def _left(run: Mapping[str, Any], each: float, now: float) -> float:
    """Seconds until a running trial ends, by its last check."""
    share: float = run["step"] / run["steps"] if "step" in run else 0.0
    since: float = now - run["heard"]
    return max(0.0, each * (1 - share) - since)
