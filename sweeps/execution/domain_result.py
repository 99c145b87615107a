"""What a domain's study of a sweep came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sweeps.execution.test_scoring import TestScores
from sweeps.report.trial_row import TrialRow
from sweeps.report.write_report import ReportPaths


@final
@dataclass(frozen=True)
class DomainResult:
    """The result of one domain's study."""

    domain: str
    """Its name."""
    rows: tuple[TrialRow, ...]
    """Its trials."""
    best: TrialRow | None
    """The best finished trial by validation score; None if none has finished."""
    test_scores: TestScores
    """Scores of the best trial and of the SFT control on test items."""
    report: ReportPaths
    """The files of its report."""
    stopped: str = ""
    """How the budget ended the study early, as a sentence; else empty."""
    measured: bool = False
    """Whether an efficiency study, which has no trials, is done."""

    def is_reached(self) -> bool:
        """Whether there is a result: a finished trial, or the efficiency measurement."""
        return self.best is not None or self.measured
