"""Early stopping on the mini world: the steps that each rule saves, and the score that it costs.

    python benchmarks/early_stopping.py --folder FOLDER

FOLDER holds what `mini_trainings.py` recorded: ten searches of 24 points, every trial to its end.
Each rule runs each search again: the pruner of a sweep is told the recorded values and decides.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
from mini_trainings import (
    CHECKS,
    DOMAIN,
    EXAMPLES,
    ITEMS,
    KINDS,
    Training,
    key,
    recorded,
    searches,
    sweep,
)
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.trial import TrialState
from scipy import stats

from sweeps.config.search_config import SearchConfig
from sweeps.config.search_space import Point, SpaceConfig
from sweeps.search.pruners import build_pruner, is_spared

SIGNALS = {"score": 1, "bits_per_byte": -1, "loss": -1}
"""What a pruner may be told at a check, with the sign that makes more better: the score and the
bits per byte of the validation items' answers, and the mean training loss since the last check."""

ORDERS = 10
"""Of the trials of a search: which come first changes what a pruner knows."""

RUNGS = (("quarter", "half"), ("quarter",))
"""Shares of the examples in complete short trainings before the full one."""

SCHEDULERS: tuple[dict[str, Any], ...] = (
    {"name": "asha"},  # the first of each family is the one that the bar is about
    {"name": "asha", "grace_checks": 1, "reduction_factor": 2},
    {"name": "asha", "grace_checks": 1, "reduction_factor": 4},
    {"name": "asha", "grace_checks": 2, "reduction_factor": 2},
    {"name": "asha", "grace_checks": 2, "reduction_factor": 4},
    {"name": "hyperband"},
    {"name": "median"},
    {"name": "median", "grace_checks": 2},
    {"name": "percentile"},
)


@dataclass(frozen=True)
class Course:
    """A trial as its search sees it: at each early check the reports by step, and the cost so far.

    ``cost`` is the whole one, ``score`` the final one.
    """

    point: Point
    checks: tuple[tuple[dict[int, float], float], ...]
    cost: float
    score: float


@dataclass(frozen=True)
class Search:
    """A replayed search: what it cost, its best final score, and how many trials finished."""

    cost: float
    best: float
    finished: int


def replay(
    pruner: BasePruner, courses: Sequence[Course], space: SpaceConfig, name: str = "0"
) -> Search:
    """One trial after another; ``name``: the study's, from which hyperband draws brackets."""
    study = optuna.create_study(study_name=name, direction="maximize", pruner=pruner)
    cost, found = 0.0, []
    for course in courses:
        study.enqueue_trial(course.point)
        trial = study.ask()
        space.suggest(trial)
        stopped = next((spent for told, spent in course.checks if is_stopped(trial, told)), None)
        if stopped is None:
            study.tell(trial, course.score)
            found.append(course.score)
        else:
            study.tell(trial, state=TrialState.PRUNED)
        cost += course.cost if stopped is None else stopped
    return Search(cost, max(found), len(found))


def is_stopped(trial: optuna.Trial, reports: Mapping[int, float]) -> bool:
    """Whether the pruner stops a trial at a check; it spares the controls, as in a sweep."""
    for step, value in reports.items():
        trial.report(value, step)
    return trial.should_prune() and not is_spared(trial, 0)


Rows = Mapping[str, Training]
"""The trainings of one point by kind."""


def checked(kind: str, signal: str, rows: Rows) -> Course:
    """Values at the checks of one training."""
    row, sign = rows[kind], SIGNALS[signal]
    early = enumerate(row[signal][: CHECKS - 1], 1)
    checks = tuple(({step: sign * value}, step / CHECKS) for step, value in early)
    return Course(row["point"], checks, 1.0, row["score"][-1])


def shortened(signal: str, rungs: Sequence[str], factor: int, rows: Rows) -> Course:
    """The final values of complete short trainings, on the rungs of halving by ``factor``."""
    row, spent, checks = rows["cosine"], 0.0, []
    for rung, kind in enumerate(rungs):
        spent += KINDS[kind].examples / EXAMPLES
        checks.append(({factor**rung: SIGNALS[signal] * rows[kind][signal][-1]}, spent))
    return Course(row["point"], tuple(checks), spent + 1.0, row["score"][-1])


def right(row: Training, check: int) -> list[int]:
    """Which items were right at a check (0 or 1 each)."""
    return [int(bit) for bit in f"{int(row['items'][check - 1], 16):0{ITEMS}b}"]


def paired(check: int, rows: Rows) -> Course:
    """The items of one check, told together."""
    row = rows["cosine"]
    reports = {item: float(bit) for item, bit in enumerate(right(row, check))}
    return Course(row["point"], ((reports, check / CHECKS),), 1.0, row["score"][-1])


def evaluated(rows: Rows) -> Course:
    """The items of the last check, told in blocks of 16; the cost is the share of items scored."""
    row, size = rows["cosine"], 16
    bits = right(row, CHECKS)
    checks = tuple(
        ({item: float(bits[item]) for item in range(end - size, end)}, end / ITEMS)
        for end in range(size, ITEMS, size)
    )
    return Course(row["point"], checks, 1.0, row["score"][-1])


@dataclass(frozen=True)
class Rule:
    """A pruner and what it is told; ``kind`` is the schedule whose best score it may lose."""

    name: str
    pruner: Callable[[], BasePruner]
    course: Callable[[Rows], Course]
    kind: str = "cosine"
    part: int = 1  # 2: half of the trials


def rules() -> Iterator[Rule]:
    """Every rule; the bar is about the first of each family."""
    course = partial(checked, "cosine", "score")
    yield Rule("no stopping, half of the trials", NopPruner, course, part=2)
    for kind, signal in product(("cosine", "wsd"), SIGNALS):
        for scheduler in SCHEDULERS:
            search = SearchConfig.model_validate({"scheduler": scheduler})
            name = " ".join(str(value) for value in scheduler.values())
            course, pruner = partial(checked, kind, signal), partial(build_pruner, search, CHECKS)
            yield Rule(f"{kind}, {signal}, {name}", pruner, course, kind)
    for signal, rungs, factor in product(("score", "bits_per_byte"), RUNGS, (4, 3, 2)):
        halving = partial(SuccessiveHalvingPruner, min_resource=1, reduction_factor=factor)
        course = partial(shortened, signal, rungs, factor)
        yield Rule(f"short {'+'.join(rungs)}, {signal}, halving {factor}", halving, course)
    for check in (1, 2):
        yield Rule(f"paired items at check {check}", WilcoxonPruner, partial(paired, check))
    yield Rule("paired items of the last check (cost: items)", WilcoxonPruner, evaluated)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % t interval of a mean over seeds."""
    error = stats.sem(values)
    reach = float(stats.t.ppf(0.975, len(values) - 1) * error)
    return mean(values) - reach, mean(values) + reach


def score_error(bests: Iterable[float]) -> float:
    """The standard error over items of the full search's best score, pooled over seeds."""
    return math.sqrt(mean(best * (1 - best) for best in bests) / ITEMS)


def orders(points: Sequence[Rows]) -> Iterator[list[Rows]]:
    """The trials of a search in the order in which they were dealt, then in random ones."""
    yield list(points)
    for seed in range(1, ORDERS):
        yield random.Random(seed).sample(points, len(points))


def judged(rule: Rule, table: Sequence[Sequence[Rows]], space: SpaceConfig) -> dict[str, Any]:
    """A rule over all seeds: the share of steps, and what its best score lost.

    ``lost``: in the order of the trials; ``lost_any``: the mean over orders.
    """
    kind = KINDS[rule.kind]
    table = [points[: kind.points] for points in table[: kind.seeds]]
    full = [max(rows[rule.kind]["score"][-1] for rows in points) for points in table]
    found = []
    for seed, points in enumerate(table):
        tries = [one[: kind.points // rule.part] for one in orders(points)]
        courses = [[rule.course(rows) for rows in one] for one in tries]
        found.append([replay(rule.pruner(), one, space, f"seed {seed}") for one in courses])
    lost = [best - some[0].best for best, some in zip(full, found, strict=True)]
    any_order = [
        best - mean(one.best for one in some) for best, some in zip(full, found, strict=True)
    ]
    return {
        "rule": rule.name,
        "share": share([some[0] for some in found], kind.points),
        "share_any": share([one for some in found for one in some], kind.points),
        "finished": mean(some[0].finished for some in found),
        "lost": summary(lost),
        "lost_any": summary(any_order),
        "error": round(score_error(full), 4),
    }


def share(searches: Sequence[Search], trials: int) -> float:
    """The mean cost of searches, as a share of that of all trials to their ends."""
    return round(mean(search.cost for search in searches) / trials, 4)


def summary(values: Sequence[float]) -> list[float]:
    """Mean and 95 % interval."""
    return [round(value, 4) for value in (mean(values), *interval(values))]


def correlations(table: Sequence[Sequence[Rows]]) -> Iterator[str]:
    """Spearman's correlation of each early value with the final score, mean over seeds."""
    for kind, signal in product(KINDS, SIGNALS):
        found = [rank_correlations(points, kind, signal) for points in table[: KINDS[kind].seeds]]
        line = " | ".join(f"{mean(each):.2f}" for each in zip(*found, strict=True))
        yield f"| {kind}, {signal} | {line} |"


def rank_correlations(points: Sequence[Rows], kind: str, signal: str) -> list[float]:
    """For each check of a kind of training, over the points of one seed."""
    target, points = "wsd" if kind == "wsd" else "cosine", points[: KINDS[kind].points]
    scores = [rows[target]["score"][-1] for rows in points]
    checks = zip(*(rows[kind][signal] for rows in points), strict=True)
    return [float(SIGNALS[signal] * stats.spearmanr(each, scores).statistic) for each in checks]


def run_replays(folder: Path) -> None:
    """Every rule over the whole table; prints it and writes replays.json."""
    known, space = recorded(folder), sweep().space_of(DOMAIN)
    table = [
        [{kind: known.get(key(kind, point), {}) for kind in KINDS} for point in points]
        for points in searches()
    ]
    found = [judged(rule, table, space) for rule in rules()]
    for row in found:
        (lost, low, high), (lost_any, low_any, high_any) = row["lost"], row["lost_any"]
        print(
            f"| {row['rule']} | {row['share']:.2f} | {row['finished']:.1f} "
            f"| {lost:.4f} | {low:.4f} to {high:.4f} | {row['error']:.4f} "
            f"| {row['share_any']:.2f} | {lost_any:.4f} | {low_any:.4f} to {high_any:.4f} |"
        )
    print(*correlations(table), sep="\n")
    text = ",\n".join(json.dumps(row) for row in found)
    (folder / "replays.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    run_replays(parser.parse_args().folder)
