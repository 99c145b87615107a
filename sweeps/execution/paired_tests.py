"""The chosen trial against the SFT control on the test items, paired by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evaluators.paired_comparison import ScoredItem, differences
from sweeps.execution.test_scoring import TestScores
from sweeps.report.trial_row import PairedTest, ScoreLabel, p_text


def paired_tests(scores: TestScores) -> tuple[PairedTest, ...]:
    """One comparison for each benchmark, and of several their mean last, named "".

    Empty where the control was chosen, one of the two was not tested, or a benchmark's records are
    not of the same items.
    """
    ours, control = scores.items.get("best", {}), scores.items.get("sft", {})
    if not ours or ours.keys() != control.keys() or scores.keys["best"] == scores.keys["sft"]:
        return ()
    if any(_ids(ours[name]) != _ids(control[name]) or not ours[name] for name in ours):
        return ()
    sides = [
        {name: [ScoredItem(*item) for item in side[name]] for name in sorted(side)}
        for side in (ours, control)
    ]
    return tuple(
        PairedTest(d.benchmark, d.a, d.b, d.difference, d.low, d.high, d.p_value, d.n)
        for d in differences(*sides)
    )


def paired_text(found: PairedTest, label: ScoreLabel) -> str:
    """A comparison in one line."""
    p = "" if found.p_value is None else f", McNemar's p {p_text(found.p_value)}"
    name = f"{found.benchmark}, " if found.benchmark else "all benchmarks, "
    return (
        f"{name}{found.n} test items: {label.number(found.best)}, SFT {label.number(found.sft)}, "
        f"difference {label.difference(found.difference)} "
        f"(95 % {label.interval(found, signed=True)}{p})"
    )


def comparison_remarks(scores: TestScores, label: ScoreLabel) -> tuple[str, ...]:
    """The comparisons of a search in sentences, or why there is none; empty in other studies."""
    best, control = (scores.keys.get(role) for role in ("best", "sft"))
    if best is None:
        return ()
    why = "not compared with SFT on test items:"
    if best == control:
        return (f"{why} the best trial is itself plain SFT",)
    if control is None:
        return (f"{why} no trial with mask ratio 0 finished",)
    return tuple(paired_text(found, label) for found in paired_tests(scores))


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


def _ids(items: Sequence[Sequence[Any]]) -> list[str]:
    return [str(item[0]) for item in items]
