"""What a finished trial reached in each of a study's objectives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweeps.settings.search_config import Objective
from sweeps.tracking.outbox import EVENTS_FILE

KEPT, TRAINED = "gmt/kept_fraction", "cost/train_seconds"


def reached(
    objectives: Sequence[Objective], metrics: Mapping[str, float], score: float, folder: str
) -> dict[Objective, float] | None:
    """The value of each objective, in order; None if one was not measured.

    ``metrics``: of the trial's last result; ``folder``: where its updates are on record.
    """
    found: dict[Objective, float] = {}
    for name in objectives:
        if name == "score":
            found[name] = score
        elif name == "seconds":
            found[name] = metrics.get(TRAINED, math.nan)
        else:
            found[name] = kept_fraction(Path(folder) / EVENTS_FILE)
    return found if all(math.isfinite(value) for value in found.values()) else None


def kept_fraction(events: Path) -> float:
    """Mean over the updates at which it was measured; NaN if there is none.

    Read from the record of all updates, since a trial that was resumed has seen only some itself.
    """
    kept: dict[int, float] = {}
    with suppress(FileNotFoundError), events.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError):  # half a line, left by a kill
                event: Any = json.loads(line)
                if KEPT in event.get("metrics", {}):
                    kept[event["step"]] = event["metrics"][KEPT]
    return sum(kept.values()) / len(kept) if kept else math.nan
