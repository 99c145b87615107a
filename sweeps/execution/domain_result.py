"""What a domain's study of a sweep came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sweeps.execution.test_scores import TestScores
from sweeps.report.trial_row import TrialRow
from sweeps.report.write_report import ReportPaths


@final
@dataclass(frozen=True)
class DomainResult:
    """One domain's study: its trials, the best on validation items, and its report.

    ``stopped``: how the budget ended the study early; else empty. ``measured``: whether an
    efficiency study, which has no trials, is done.
    """

    domain: str
    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    test_scores: TestScores
    report: ReportPaths
    stopped: str = ""
    measured: bool = False

    def is_reached(self) -> bool:
        """Whether there is a result: a finished trial, or the efficiency measurement."""
        return self.best is not None or self.measured
