"""Trainings of the mini world that benchmarks of searches replay: a grid of points, recorded once.

    python benchmarks/mini_trainings.py --folder FOLDER

Each point of the demo's space is trained to its end with full and short schedules, without Ray.
The command can be killed and continued. Only validation items are scored.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

from evaluators.evaluate import evaluate
from sweeps.config.load import load_config
from sweeps.config.search_space import Point
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.finetune import validation
from sweeps.finetune.loop import Cache, finetune
from sweeps.finetune.reporter import Check

CONFIG = Path(__file__).resolve().parent.parent / "sweeps" / "configs" / "mini.yaml"
DOMAIN, TRAININGS = "math", "trainings.jsonl"
SEEDS, POINTS, CHECKS, ITEMS, EXAMPLES = 10, 24, 4, 128, 1024
RATES = tuple(float(f"{3e-4 * (5e-3 / 3e-4) ** (level / 7):.3g}") for level in range(8))


@dataclass(frozen=True)
class Kind:
    """How points are trained: the first ``points`` of the first ``seeds`` searches."""

    examples: int = EXAMPLES
    schedule: str = "cosine"
    checks: int = CHECKS
    points: int = POINTS
    seeds: int = SEEDS


KINDS = {
    "cosine": Kind(),
    "quarter": Kind(EXAMPLES // 4, checks=1),
    "half": Kind(EXAMPLES // 2, checks=1),
    "wsd": Kind(schedule="wsd", points=POINTS // 2, seeds=6),
}
Training = dict[str, Any]
Key = tuple[str, str]


def searches() -> list[list[Point]]:
    """The grid of the demo's space, dealt out at random: 24 points for each seed."""
    names = ("mask_ratio", "accumulation_interval", "learning_rate")
    values = product([ratio / 10 for ratio in range(10)], (1, 2, 4), RATES)
    grid: list[Point] = [dict(zip(names, point, strict=True)) for point in values]
    random.Random(0).shuffle(grid)
    return [grid[seed * POINTS :][:POINTS] for seed in range(SEEDS)]


def sweep(checks: int = CHECKS) -> SweepConfig:
    """The demo's sweep, with all validation items at every check."""
    changes = (f"evaluation.checks={checks}", "evaluation.check_limit=null")
    return resolve_paths(load_config(CONFIG, [*changes, "training.statistics_every=0"]))


class Recorder:
    """Keeps the losses, checks and items of a training; stops nothing."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.checks: list[Check] = []
        self.items: list[str] = []

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the loss."""
        self.losses.append(metrics["train/loss"])

    def check(self, check: Check) -> bool:
        """Keep the check."""
        self.checks.append(check)
        return True

    def evaluate(self, *args: Any, **options: Any) -> Any:
        """As `evaluators.evaluate.evaluate`; keeps which items were right, as hexadecimal bits."""
        result = evaluate(*args, **options)
        bits = "".join(str(int(record.score)) for record in result.records)
        self.items.append(f"{int(bits, 2):0{len(bits) // 4}x}")
        return result


def train(kind: str, seed: int, point: Point, cache: Cache) -> Training:
    """One training to its end."""
    asked = KINDS[kind]
    changes: Point = {"examples": asked.examples, "schedule": asked.schedule, "seed": seed}
    run = sweep(asked.checks).trial(DOMAIN, {**point, **changes})
    recorder, started = Recorder(), time.perf_counter()
    listening = patch.object(validation, "evaluate", recorder.evaluate)  # checks are means only
    with tempfile.TemporaryDirectory() as folder, listening:
        result = finetune(run, Path(folder), recorder, cache)
    assert result.state == "finished", result.reason  # none diverges in this space
    bits = [check.metrics["eval/exact_match/bits_per_byte"] for check in recorder.checks]
    steps = pairwise([0, *(check.step for check in recorder.checks)])
    return {
        "kind": kind,
        "seed": seed,
        "point": point,
        "score": [check.score for check in recorder.checks],
        "bits_per_byte": [round(value, 5) for value in bits],
        "loss": [round(mean(recorder.losses[start:end]), 5) for start, end in steps],
        "items": recorder.items,
        "seconds": round(time.perf_counter() - started, 2),
    }


def key(kind: str, point: Point) -> Key:
    """What tells a training from the others."""
    return kind, json.dumps(point, sort_keys=True)


def recorded(folder: Path) -> dict[Key, Training]:
    """The trainings that have ended."""
    path = folder / TRAININGS
    rows = map(json.loads, path.read_text().splitlines() if path.exists() else ())
    return {key(row["kind"], row["point"]): row for row in rows}


def record(folder: Path) -> None:
    """Run what is missing; each training is written as it ends."""
    known, cache = recorded(folder), Cache()
    for kind, asked in KINDS.items():
        for seed, points in enumerate(searches()[: asked.seeds]):
            for point in points[: asked.points]:
                if key(kind, point) not in known:
                    row = train(kind, seed, point, cache)
                    with (folder / TRAININGS).open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(kind, seed, point, row["score"][-1:], row["seconds"], flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    record(parser.parse_args().folder)
