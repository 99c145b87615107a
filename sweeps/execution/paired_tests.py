"""The chosen trial against the SFT control on the test items, paired by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluators.statistics import mcnemar
from sweeps.execution.test_scores import TestScores
from sweeps.report.arms import Interval, TooFewScores
from sweeps.report.paired import Array, stratified_bootstrap
from sweeps.report.trial_row import PairedTest, ScoreLabel, p_text

Item = Sequence[Any]
"""[id, score, weight, cluster] of one item, see `TestScores`."""

Part = tuple[Array, Array, Array]


def paired_tests(scores: TestScores) -> tuple[PairedTest, ...]:
    """One comparison for each benchmark, and of several their mean last, named "".

    Empty where the control was chosen, one of the two was not tested, or a benchmark's records are
    not of the same items.
    """
    ours, control = scores.items.get("best", {}), scores.items.get("sft", {})
    if not ours or ours.keys() != control.keys() or scores.keys["best"] == scores.keys["sft"]:
        return ()
    pairs = {name: (ours[name], control[name]) for name in sorted(ours)}
    if any(_ids(a) != _ids(b) or not a for a, b in pairs.values()):
        return ()
    parts = {name: _part(a, b) for name, (a, b) in pairs.items()}
    found = [_test(name, [parts[name]], _p_value(a, b), len(a)) for name, (a, b) in pairs.items()]
    if len(found) > 1:
        found.append(_test("", list(parts.values()), None, sum(each.n for each in found)))
    return tuple(found)


def paired_text(found: PairedTest, label: ScoreLabel) -> str:
    """A comparison in one line."""
    p = "" if found.p_value is None else f", McNemar's p {p_text(found.p_value)}"
    name = f"{found.benchmark}, " if found.benchmark else "all benchmarks, "
    return (
        f"{name}{found.n} test items: {label.number(found.best)}, SFT {label.number(found.sft)}, "
        f"difference {label.difference(found.difference)} "
        f"(95 % {label.span(found.low, found.high, signed=True)}{p})"
    )


def paired_metrics(found: Sequence[PairedTest]) -> dict[str, float]:
    """The comparisons as the tracker shows them; what is not known is absent."""
    metrics = {}
    for each in found:
        place = "/".join(part for part in ("test_difference", each.benchmark) if part)
        values = {"mean": each.difference, "low": each.low, "high": each.high, "p": each.p_value}
        for name, value in values.items():
            if value is not None and not math.isnan(value):
                metrics[f"{place}/{name}"] = value
    return metrics


def _test(name: str, parts: Sequence[Part], p_value: float | None, n: int) -> PairedTest:
    best, sft = (
        float(np.mean([np.average(part[side][:, 0], weights=part[2]) for part in parts]))
        for side in (0, 1)
    )
    try:
        interval = stratified_bootstrap(parts)
    except TooFewScores:  # of one item no spread is known
        interval = Interval(best - sft, math.nan, math.nan)
    return PairedTest(name, best, sft, interval.estimate, interval.low, interval.high, p_value, n)


def _ids(items: Sequence[Item]) -> list[str]:
    return [str(item[0]) for item in items]


def _clusters(items: Sequence[Item]) -> list[str]:
    """Whose source an item shares; by itself it is its own."""
    return [
        f"shared {item[3]}" if len(item) > 3 and item[3] else f"own {number}"
        for number, item in enumerate(items)
    ]


def _part(ours: Sequence[Item], control: Sequence[Item]) -> Part:
    """Scores and weights by cluster: those of one source are resampled as one."""
    places = {name: place for place, name in enumerate(dict.fromkeys(_clusters(ours)))}
    rows = np.array([places[name] for name in _clusters(ours)])
    weights = np.array([float(item[2]) for item in ours])
    total: Array = np.bincount(rows, weights).astype(np.float64)
    sides = [
        np.bincount(rows, weights * [float(item[1]) for item in items]) / np.maximum(total, 1e-300)
        for items in (ours, control)
    ]
    return sides[0][:, None], sides[1][:, None], total


def _p_value(ours: Sequence[Item], control: Sequence[Item]) -> float | None:
    """McNemar's, where items are right or wrong, and each by itself."""
    right = [[item[1] for item in items] for items in (ours, control)]
    clusters = _clusters(ours)
    if not {*right[0], *right[1]} <= {0, 1} or len({*clusters}) < len(clusters):
        return None
    return mcnemar(*([score == 1 for score in scores] for scores in right))
