"""The samplers of a search on the mini world: what the best of 24 trials lacks to the best point.

    python benchmarks/samplers.py --folder FOLDER

FOLDER holds what `mini_trainings.py` recorded: the demo's space with eight learning rates. A trial
takes the score of the recorded point with the nearest learning rate.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
from early_stopping import interval
from mini_trainings import DOMAIN, RATES, key, recorded, sweep

from sweeps.config.search_config import SearchConfig
from sweeps.config.search_space import Point, SpaceConfig
from sweeps.search.samplers import DistinctSampler

SAMPLERS, SEEDS, TRIALS = ("random", "qmc", "tpe", "gp"), 30, 24
Table = dict[str, float]
Result = dict[str, Any]


def nearest(point: Point) -> str:
    """The recorded point with the learning rate nearest by ratio, as the table's key."""
    drawn = float(point["learning_rate"])
    rate = min(RATES, key=lambda level: abs(math.log(level / drawn)))
    return key("", {**point, "learning_rate": rate})[1]


def search(sampler: str, table: Table, space: SpaceConfig, seed: int) -> list[float]:
    """The best score after each trial of a search."""
    config = SearchConfig(sampler=sampler, trials=TRIALS)
    study = optuna.create_study(direction="maximize")
    study.sampler = DistinctSampler(study, space, config, seed)
    found = []
    for _ in range(TRIALS):
        trial = study.ask()
        found.append(table[nearest(space.suggest(trial))])
        study.tell(trial, found[-1])
    return list(accumulate(found, max))


def lacking(sampler: str, table: Table, space: SpaceConfig) -> Iterator[Result]:
    """By how much the best score falls short of the table's, after half and all of the trials."""
    bests = [search(sampler, table, space, seed) for seed in range(SEEDS)]
    for trials in (TRIALS // 2, TRIALS):
        lacks = [max(table.values()) - best[trials - 1] for best in bests]
        low, high = interval(lacks)
        yield {
            "sampler": sampler,
            "trials": trials,
            "mean": round(mean(lacks), 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "lacks": lacks,
        }


def compare(folder: Path) -> None:
    """Every sampler with all seeds, on the full trainings with the cosine schedule."""
    known, space, results = recorded(folder), sweep().space_of(DOMAIN), list[Result]()
    table = {point: row["score"][-1] for (kind, point), row in known.items() if kind == "cosine"}
    for sampler in SAMPLERS:
        results += lacking(sampler, table, space)
    for row in results:
        print("| {sampler} | {trials} | {mean} | {low} to {high} |".format(**row))
    text = ",\n".join(map(json.dumps, results))
    (folder / "samplers.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    compare(parser.parse_args().folder)
