"""A trial that has ended, as a display is told of it."""

from __future__ import annotations

from typing import Any

POINT = {"mask_ratio": 0.2, "accumulation_interval": 4, "learning_rate": 1e-3}
TRIAL: dict[str, Any] = {
    "number": 2,
    "point": POINT,
    "score": 0.5,
    "state": "finished",
    "seconds": 12.4,
    "failure": "",
    "metrics": {"eval/x": 1.0},
}
