"""The analysis of a sensitivity study: arms, intervals, verdicts, and the winner's fresh seeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, final

from evaluators.paired_comparison import Difference
from sweeps.report.against_sft import Items, against_sft
from sweeps.report.arm_comparison import (
    Comparison,
    Comparisons,
    Verdict,
    against_best,
    against_control,
    overall,
    seeds_for_flat,
)
from sweeps.report.arms import (
    SFT,
    Arm,
    Interval,
    TooFewScores,
    arm,
    comparable,
    setting_at,
    winner,
)
from sweeps.report.intervals import UNEQUAL, cut, simultaneous_intervals, spread_differs_p
from sweeps.report.trial_row import ScoreLabel, TrialRow

CLAIM = 0.9
"""The paper calls its curves consistent up to this mask ratio (Figure 2)."""


@final
@dataclass(frozen=True)
class SensitivityData:
    """One sensitivity study of one domain.

    `items[trial key][benchmark]`: [id, score, weight, ...] of test items, for fresh trials only.
    `importance`: (parameter, share of variance with its interval), on the tuning grid. `declared`:
    the manifest's content and date.
    """

    name: str
    domain: str
    label: ScoreLabel
    ratios: tuple[float, ...]
    method: str
    margin: float
    rows: tuple[TrialRow, ...]
    declared: str
    config_yaml: str
    items: Items = field(default_factory=dict)
    importance: tuple[tuple[str, Interval], ...] = ()


@final
@dataclass(frozen=True)
class Rescored:
    """The winner against SFT: on fresh seeds (validation), and on test items by benchmark."""

    ratio: float
    selected: float
    fresh: Comparison | None
    fresh_mean: float
    test: tuple[Difference, ...]


@final
@dataclass(frozen=True)
class SensitivityResult:
    """The numbers of the report; `missing` says why verdicts are absent."""

    arms: tuple[Arm, ...]
    intervals: tuple[Interval, ...] = ()
    best: Comparisons | None = None
    control: Comparisons | None = None
    seeds_needed: int | None = None
    spread_p: float = 1.0
    rescored: Rescored | None = None
    blocks: float = 0.0
    missing: str = ""

    def claim(self) -> Verdict | None:
        """The verdict on the ratios up to `CLAIM`, each compared with the best of all."""
        if self.best is None:
            return None
        return overall([a.verdict for a in self.best.arms if float(a.name) <= CLAIM])

    def reach(self) -> str:
        """The largest ratio tested that the claim speaks of: of all, if all are equivalent."""
        tested = [float(one.name) for one in self.arms]
        flat = len(self.said("equivalent")) == len(tested) - 1
        within = [ratio for ratio in tested if flat or ratio <= CLAIM]
        return f"{max(within, default=max(tested)):g}"

    def said(self, verdict: Verdict) -> list[str]:
        """The ratios with this verdict when compared with the best one."""
        return (
            [] if self.best is None else [a.name for a in self.best.arms if a.verdict == verdict]
        )


def analyse(data: SensitivityData) -> SensitivityResult:
    """All statistics of the study; arms without a score are left out and named."""
    every = [arm(setting_at(r, data.method), data.rows, f"{r:g}") for r in sorted(data.ratios)]
    arms = tuple(one for one in every if one.scores)
    absent = [one.name for one in every if not one.scores]
    try:
        intervals = tuple(cut(one, data.label) for one in simultaneous_intervals(arms))
        best = against_best(arms, data.margin)
    except TooFewScores as error:
        return SensitivityResult(arms, missing=str(error))
    control = next((one for one in arms if one.name == "0"), None)
    return SensitivityResult(
        arms,
        intervals,
        best,
        None if control is None else against_control(arms, control, data.margin),
        seeds_for_flat(len(arms), best.spread.sd, data.margin),
        spread_differs_p(arms),
        _rescored(data),
        comparable(arms).blocks,
        f"no score at mask ratio {', '.join(absent)}" if absent else "",
    )


def _rescored(data: SensitivityData) -> Rescored | None:
    ratio = winner(data.ratios, data.rows, data.method)
    if ratio is None:
        return None
    setting = setting_at(ratio, data.method)
    ours, control = (arm(s, data.rows, s.method, "fresh") for s in (setting, SFT))
    if not ours.scores or not control.scores:
        return None
    try:
        fresh = against_control([ours, control], control, data.margin).arms[0]
    except TooFewScores:
        fresh = None
    selected = arm(setting, data.rows, "").mean
    test = against_sft(data.items, data.rows, setting, "fresh")
    return Rescored(ratio, selected, fresh, ours.mean, test)


def headline(data: SensitivityData, result: SensitivityResult) -> str:
    """The verdict in one sentence, limited to what the study can resolve."""
    if result.best is None:
        return f"No verdict yet: {result.missing}."
    label, best = data.label, result.best
    margin = f"\u00b1{data.margin:g} {label.unit}"
    seeds = min(one.n for one in result.arms)
    claim, different, reach = result.claim(), result.said("different"), result.reach()
    if claim == "equivalent":
        text = (
            f"up to {reach}, the mask ratio makes no difference beyond {margin}: every ratio is "
            f"equivalent to the best one ({best.reference})"
        )
        if different:
            text += f"; {', '.join(different)} {'is' if len(different) == 1 else 'are'} worse"
    elif claim == "different":
        text = (
            f"the mask ratio already makes a difference up to {reach}; "
            f"worse than the best one ({best.reference}): {', '.join(different)}"
        )
    else:
        text = f"it is undecided whether ratios up to {reach} are equivalent within {margin}"
        if different:
            text += f" (worse than the best one, {best.reference}: {', '.join(different)})"
        text += f"; {seeds_text(result, seeds)}"
    if different and result.spread_p < UNEQUAL:
        text += " (the spread differs between ratios, which makes such differences less certain)"
    return f"On validation items, {seeds} seeds per ratio: {text}."


def results(data: SensitivityData, result: SensitivityResult) -> dict[str, Any]:
    """The numbers of the study for other programs."""
    shares = [[name, asdict(share)] for name, share in data.importance]
    found = {"claim": result.claim(), "declared": data.declared, **asdict(result)}
    return {**found, "importance": shares}


def seeds_text(result: SensitivityResult, seeds: int) -> str:
    """How many more seeds a decision requires."""
    if result.best is not None and result.best.spread.sd == 0:
        return "the scores have no spread to judge by, which more validation items would change"
    if result.seeds_needed is None:
        return "this margin is too small to resolve with any practical number of seeds"
    more = result.seeds_needed - seeds
    if more <= 0:
        return "this would suffice for a truly flat curve, so the curve may not be flat"
    return f"about {more} more per ratio would show it with 80 % probability if the curve is flat"
