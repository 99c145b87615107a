"""The data of a report: plain values, without tracker or Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Protocol, final

from evaluators.protocol import is_harness

if TYPE_CHECKING:
    from evaluators.paired_comparison import Interval

# The suffixes of one benchmark's entries in `StudyData.test_results`.
SCORE, STANDARD_ERROR, COUNT = "score", "standard_error", "n"


NO_VALUE, NOT_ESTIMABLE = "\u2013", "not estimable"
EARLIER_SPACE = "an earlier space"
FRESH = "fresh"
"""The stage of trials on seeds that selected nothing."""

CUT_SHORT = ("stopped_early", "stopped_by_user")
"""The states of a trial that ended before its last update and keeps the score of its last check.
"""


class Ends(Protocol):
    """Whatever has the bounds of an interval."""

    @property
    def low(self) -> float:
        """The lower bound."""

    @property
    def high(self) -> float:
        """The upper bound."""


def benchmark_text(name: str, metric: str | None) -> str:
    """A benchmark and its primary metric, None for its default."""
    return f"{name} {metric or 'score'}"


@final
@dataclass(frozen=True)
class ScoreLabel:
    """The name of a score and how it is shown.

    Internally higher is always better, so bits per byte are stored negated and shown without the
    minus (`sign` -1, "lower is better"). No score lies below `lowest` or above `highest`.
    """

    text: str
    sign: float = 1.0
    decimals: int = 3
    unit: str = "in score"
    lowest: float = -math.inf
    highest: float = math.inf

    @classmethod
    def of(cls, benchmarks: Sequence[tuple[str, str | None]]) -> ScoreLabel:
        """The label of a mean over benchmarks, each (name, metric or None for its default)."""
        if all(metric == "bits_per_byte" for _, metric in benchmarks):
            return cls("bits per byte (lower is better)", -1.0, 4, "bits per byte", highest=0.0)
        text = f"mean of {len(benchmarks)} benchmarks"
        if any(metric == "bits_per_byte" for _, metric in benchmarks):
            return cls(f"{text} (bits per byte count negatively)")
        if len(benchmarks) == 1:
            text = " ".join(benchmark_text(*each) for each in benchmarks)
        if any(is_harness(name) for name, _ in benchmarks):  # its metrics have bounds of their own
            return cls(text)
        return cls(text, lowest=0.0, highest=1.0)

    def shown(self, score: float) -> float:
        """The value as shown to readers."""
        return self.sign * score

    def number(self, score: float | None, sign: str = "") -> str:
        """A score as text."""
        if score is None:
            return NO_VALUE
        return "n/a" if math.isnan(score) else f"{self.shown(score):{sign}.{self.decimals}f}"

    def difference(self, value: float | None) -> str:
        """A score difference as text, with its sign."""
        return self.number(value, "+")

    def within(self, score: float) -> float:
        """The nearest score that there can be, so that an accuracy's interval stays in [0, 1]."""
        return min(max(score, self.lowest), self.highest)

    def span(self, low: float, high: float, *, signed: bool = False) -> str:
        """An interval as text, the smaller shown number first."""
        ends = sorted((low, high), key=self.shown)
        return " to ".join(self.number(end, "+" if signed else "") for end in ends)

    def interval(self, ends: Ends | None, *, signed: bool = False) -> str:
        """The bounds of an estimate as text; equal ones mean that no spread was seen."""
        if ends is None:
            return NO_VALUE
        is_known = ends.high > ends.low
        return self.span(ends.low, ends.high, signed=signed) if is_known else NOT_ESTIMABLE


@final
@dataclass(frozen=True)
class TrialRow:
    """One trial. `score` is on validation items, higher is better; None if it has none.

    `state` is a `TrialState` or "running"/"pending"; `step` of `steps` updates; `seconds` is wall
    time, 0 if another study of the paper trained it. `stage` is a fixed design's ("tuning",
    "replicate", "fresh"), and empty in a search. `others`: the other searched parameters.
    `violated`: the search's constraints that it violates. `origin`: where a trial comes from that
    the study does not select from: `EARLIER_SPACE`, or a study that it was imported from; else
    empty. `scores`: of each seed, if `score` is a mean. `queued`: whether a person added it to a
    search. A fork (stage "fork") continues trial `parent` from its update `parent_step`.
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
    method: str = "gmt"
    stage: str = ""
    train_fraction: float = 1.0
    others: Mapping[str, float | int | str] = field(default_factory=dict)
    violated: tuple[str, ...] = ()
    origin: str = ""
    scores: tuple[float, ...] = ()
    queued: bool = False
    parent: int | None = None
    parent_step: int = 0

    def point(self) -> dict[str, float | int | str]:
        """Its parameters, without seed and stage."""
        return {
            "method": self.method,
            "mask_ratio": self.mask_ratio,
            "accumulation_interval": self.accumulation_interval,
            "learning_rate": self.learning_rate,
            **self.others,
        }

    def has_ended(self) -> bool:
        """Whether it has ended and will not be resumed."""
        return self.state in ("finished", *CUT_SHORT, "failed")

    def is_sft(self) -> bool:
        """Whether it is plain fine-tuning; half fine-tuning, too, has mask ratio 0."""
        return self.mask_ratio == 0 and self.method in ("sft", "gmt", "random")

    def same_point(self, other: TrialRow) -> bool:
        """Whether the two differ at most in seed and stage."""
        return self.point() == other.point()


@final
@dataclass(frozen=True)
class PairedTest:
    """The chosen trial minus the SFT control on the same `n` test items of one benchmark.

    An empty benchmark name means the average over all benchmarks. [`low`, `high`]: the 95 %
    interval over resampled items. `p_value`: McNemar's exact one; None if items are not simply
    right or wrong, or not independent.
    """

    benchmark: str
    best: float
    sft: float
    difference: float
    low: float
    high: float
    p_value: float | None
    n: int


@final
@dataclass(frozen=True)
class StudyData:
    """One study of one domain.

    `label` names the score. `test_results` has "best" and "sft", each mapping "<benchmark>/score",
    "<benchmark>/standard_error", "<benchmark>/n" (see `benchmark_entries`); it is empty if the
    test items were not read. `paired` compares the two. `rows` are the search's own trials, one
    for each point, `replicates` those of other seeds, and `forks` the trials that a person
    continued from a checkpoint with other settings. Objectives other than the score are in each
    row's metrics as "objective/<name>". `shortfall` says if the space has fewer points than the
    trials asked for; else empty. `elsewhere`: trials outside the space or of other studies.
    `curves`: by trial number, (share of the updates, score) at each check. `importance`: each
    parameter's share of the score's variance.
    """

    name: str
    domain: str
    label: ScoreLabel
    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    test_results: Mapping[str, Mapping[str, float]]
    config_yaml: str
    replicates: tuple[TrialRow, ...] = ()
    forks: tuple[TrialRow, ...] = ()
    objectives: tuple[str, ...] = ("score",)
    paired: tuple[PairedTest, ...] = ()
    shortfall: str = ""
    elsewhere: tuple[TrialRow, ...] = ()
    curves: Mapping[int, Sequence[tuple[float, float]]] = field(default_factory=dict)
    importance: tuple[tuple[str, Interval], ...] = ()


def p_text(p_value: float) -> str:
    """A p-value as text."""
    return f"{p_value:.3f}" if p_value >= 0.001 else "below 0.001"


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
    """The comparable rows, which ran to the end and have a score, in trial order."""
    rows_with_score = (r for r in rows if r.state == "finished" and r.score is not None)
    return sorted(rows_with_score, key=lambda row: row.number)


def best_first(rows: tuple[TrialRow, ...]) -> list[TrialRow]:
    """The comparable rows within the constraints by score; of equal scores, the earlier first."""
    feasible = [row for row in scored(rows) if not row.violated]
    return sorted(feasible, key=_score, reverse=True)


def fresh_scores(best: TrialRow, rows: tuple[TrialRow, ...]) -> list[float]:
    """The scores of the best point on seeds that did not select it."""
    return [_score(row) for row in scored(rows) if row.stage == FRESH and best.same_point(row)]


def score_text(label: ScoreLabel, best: TrialRow, rows: tuple[TrialRow, ...]) -> str:
    """The best score, which is optimistic, and beside it that of fresh seeds, which is not."""
    said = label.number(best.score)
    said += f" (mean of {len(best.scores)} seeds)" if best.scores else ""
    if not (fresh := fresh_scores(best, rows)):
        return said
    seeds = "1 fresh seed" if len(fresh) == 1 else f"{len(fresh)} fresh seeds"
    return f"{said} in the search; {label.number(mean(fresh))} over {seeds}"


def other_parameters(rows: tuple[TrialRow, ...]) -> list[str]:
    """The searched parameters without a column of their own, in the order of the space."""
    return list(dict.fromkeys(name for row in rows for name in row.others))


def as_text(value: float | str | None) -> str:
    """A parameter's value; a dash for a point that does not have it."""
    if value is None:
        return NO_VALUE
    return value if isinstance(value, str) else f"{value:.4g}"


def violations(rows: tuple[TrialRow, ...]) -> str:
    """A sentence if finished trials violate constraints; else empty."""
    outside = [row for row in scored(rows) if row.violated]
    if not outside:
        return ""
    which = ", ".join(dict.fromkeys(text for row in outside for text in row.violated))
    return f"{len(outside)} of {len(scored(rows))} finished trials violate {which}"


def stopped_controls(rows: tuple[TrialRow, ...]) -> str:
    """A sentence if plain fine-tuning was stopped early; else empty.

    A pruner, the budget or the user may have stopped it. Comparisons with it are then less
    certain.
    """
    controls = [row for row in rows if row.is_sft()]
    stopped = [row for row in controls if row.state in (*CUT_SHORT, "interrupted")]
    if not stopped:
        return ""
    places = [
        f"at update {row.step} of {row.steps}" if row.steps else "before its first check"
        for row in stopped
    ]
    some = ", ".join(f"trial {row.number} {p}" for row, p in zip(stopped, places, strict=True))
    whole = len(scored(tuple(controls)))
    rest = "no control has finished" if not whole else f"{whole} finished"
    return f"The control (SFT, mask ratio 0) was stopped early ({some}); {rest}. "


def distinct(rows: list[TrialRow]) -> list[TrialRow]:
    """The first row of each point."""
    found: list[TrialRow] = []
    for row in rows:
        if not any(row.same_point(other) for other in found):
            found.append(row)
    return found


def best_by_mask_ratio(rows: tuple[TrialRow, ...]) -> dict[float, TrialRow]:
    """Mask ratio -> its best comparable trial, in ascending order.

    Best over the nuisance parameters, and over the masking methods if these are searched; 0 is
    plain fine-tuning.
    """
    best: dict[float, TrialRow] = {}
    for row in scored(rows):
        if row.mask_ratio == 0 and not row.is_sft():
            continue  # half fine-tuning has no mask ratio
        if row.mask_ratio not in best or _score(row) > _score(best[row.mask_ratio]):
            best[row.mask_ratio] = row
    return dict(sorted(best.items()))


def best_so_far(rows: tuple[TrialRow, ...]) -> list[tuple[int, float]]:
    """(trial number, best score up to it) in trial order, from the first comparable trial.

    Trials that failed or were stopped early count as points without improvement.
    """
    curve: list[tuple[int, float]] = []
    comparable = {row.number: _score(row) for row in best_first(rows)}
    for number in sorted(row.number for row in rows if row.has_ended()):
        scores = [score for _, score in curve[-1:]]
        scores += [comparable[number]] if number in comparable else []
        curve += [(number, max(scores))] if scores else []
    return curve


def _score(row: TrialRow) -> float:
    assert row.score is not None
    return row.score
