"""Small sweeps over the embedded world, for tests that start a real Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Tree = dict[str, Any]


def tree(storage: Path, **changes: Any) -> Tree:
    """A one-domain sweep of three short trials; ``changes`` replace top-level keys."""
    return {
        "name": "small",
        "storage": str(storage),
        "model": {"path": "mini:model", "dtype": "float32"},
        "resources": {"workers": 1, "concurrency": 1},
        "training": {"examples": 64, "batch": {"mini_batch": 4}, "threads": 1},
        "evaluation": {"checks": 2, "check_limit": 8},
        "search": {"trials": 3, "sampler": "random"},
        "space": {
            "mask_ratio": [0.0, 0.4],
            "accumulation_interval": [1, 2],
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "domains": {"math": {"data": data(), "benchmarks": [benchmark()]}},
    } | changes


def data() -> Tree:
    """The math domain's training rows."""
    return {"path": "mini:math/train.jsonl", "max_length": 128}


def benchmark(**changes: Any) -> Tree:
    """The math domain's benchmark on a few items."""
    return {
        "name": "exact_match",
        "validation": "mini:math/validation.jsonl",
        "test": "mini:math/test.jsonl",
        "limit": 16,
        "test_limit": 8,
    } | changes


def point(mask_ratio: float, accumulation_interval: int, learning_rate: float) -> Tree:
    """A starting point."""
    return {
        "mask_ratio": mask_ratio,
        "accumulation_interval": accumulation_interval,
        "learning_rate": learning_rate,
    }
