"""What a search says of the best trial against plain fine-tuning (SFT)."""

from __future__ import annotations

from sweeps.report.methods_page import NAMES
from sweeps.report.trial_row import (
    NOT_ESTIMABLE,
    PairedTest,
    ScoreLabel,
    StudyData,
    TrialRow,
    best_by_mask_ratio,
    best_first,
)


def verdict(data: StudyData) -> str:
    """The best trial against plain fine-tuning (SFT), on test items, in one sentence."""
    if data.best is None:
        return "No verdict: no trial has finished within the constraints."
    if said := same_score(data.rows):
        return f"No verdict: {said}."
    if is_control(data):
        count = len(best_first(data.rows))
        return f"The best of {count} trials on validation items is SFT itself: nothing to compare."
    if 0.0 not in best_by_mask_ratio(data.rows):
        return "No verdict: no SFT trial (mask ratio 0) has finished."
    if not data.test_results:
        return "No verdict yet: the test items have not been read."
    if not data.paired:
        return "No verdict: the best trial and SFT have no scores on the same test items."
    ours = NAMES.get(data.best.method, data.best.method)
    return f"On {data.paired[-1].n} test items, {_compared(data.label, ours, data.paired[-1])}."


def _compared(label: ScoreLabel, ours: str, test: PairedTest) -> str:
    """Who leads, by how much, and for what it holds."""
    unit, scope = " bits per byte" if label.sign < 0 else "", "these two models, one seed each"
    if test.low > 0 or test.high < 0:
        leader, other = (ours, "SFT") if test.low > 0 else ("SFT", ours)
        gap, *ends = (
            f"{abs(each):.{label.decimals}f}"
            for each in (test.difference, *sorted((test.low, test.high), key=abs))
        )
        span = f"{' to '.join(ends)}" if test.high > test.low else NOT_ESTIMABLE
        return f"{leader} leads {other} by {gap}{unit} (95 % interval {span}): {scope}"
    gap, span = label.difference(test.difference), label.interval(test, signed=True)
    return (
        f"{ours} and SFT cannot be distinguished: {ours} minus SFT is {gap}{unit} "
        f"(95 % interval {span}), {scope}"
    )


def same_score(rows: tuple[TrialRow, ...]) -> str:
    """What to do if the score does not tell the finished trials apart; else empty."""
    found = best_first(rows)
    if len(found) < 2 or found[0].score != found[-1].score:
        return ""
    return (
        f"all {len(found)} finished trials have the same score; a finer metric of the benchmarks, "
        "such as bits_per_byte, tells them apart"
    )


def is_control(data: StudyData) -> bool:
    """Whether the best trial is itself plain fine-tuning."""
    return data.best is not None and data.best.is_sft()
