"""What a report is made of: plain values, no tracker, no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

# The suffixes of one benchmark's entries in `StudyData.test_results`.
SCORE, STANDARD_ERROR, COUNT = "score", "standard_error", "n"


@final
@dataclass(frozen=True)
class TrialRow:
    """One trial. `score` is on validation items, higher is better; None if it has none.

    `state` is a `TrialState` or "running"/"pending"; `step` of `steps` updates; `seconds` wall.
    """

    number: int
    key: str
    state: str
    mask_ratio: float
    accumulation_interval: int
    learning_rate: float
    seed: int
    score: float | None
    step: int
    steps: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class StudyData:
    """One study of one domain.

    `metric` labels the score axis ("accuracy"). `test_results` has "best" and "sft", each mapping
    "<benchmark>/score", "<benchmark>/standard_error", "<benchmark>/n" (see `benchmark_entries`);
    empty when the test items were not read. `commands` repeat the study, one shell line each.
    """

    name: str
    domain: str
    metric: str
    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    test_results: Mapping[str, Mapping[str, float]]
    config_yaml: str
    commands: tuple[str, ...] = ()


def benchmark_entries(
    benchmark: str, score: float, standard_error: float, n: int
) -> dict[str, float]:
    """One benchmark's entries for `StudyData.test_results["best"]` or `["sft"]`."""
    return {
        f"{benchmark}/{SCORE}": score,
        f"{benchmark}/{STANDARD_ERROR}": standard_error,
        f"{benchmark}/{COUNT}": float(n),
    }


def scored(rows: tuple[TrialRow, ...]) -> list[TrialRow]:
    """The rows that can be compared: they ran to the end and have a score, in trial order."""
    rows_with_score = (r for r in rows if r.state == "finished" and r.score is not None)
    return sorted(rows_with_score, key=lambda row: row.number)


def best_by_mask_ratio(rows: tuple[TrialRow, ...]) -> dict[float, TrialRow]:
    """Mask ratio -> its best comparable trial, ascending: best over the nuisance parameters."""
    best: dict[float, TrialRow] = {}
    for row in scored(rows):
        if row.mask_ratio not in best or _score(row) > _score(best[row.mask_ratio]):
            best[row.mask_ratio] = row
    return dict(sorted(best.items()))


def best_so_far(rows: tuple[TrialRow, ...]) -> list[tuple[int, float]]:
    """(trial number, best score up to it) in trial order."""
    curve: list[tuple[int, float]] = []
    for row in scored(rows):
        best = max(_score(row), curve[-1][1]) if curve else _score(row)
        curve.append((row.number, best))
    return curve


def _score(row: TrialRow) -> float:
    assert row.score is not None
    return row.score
