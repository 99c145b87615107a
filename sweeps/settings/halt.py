"""When a study stops before its trials are done: by its budget, or failures others would share."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, final

from pydantic import Field

from sweeps.finetune.strict_model import StrictModel
from sweeps.settings.budget import Ledger
from sweeps.settings.failures import STOPS_THE_STUDY, cause

ENOUGH_TO_JUDGE = 4
"""Ended trials before the failed share counts."""


class FailuresConfig(StrictModel):
    """What is done about trials that fail.

    ``on_oom``: ``halve`` tries again with half the micro-batch at the same effective batch.
    ``most_failed_share``: above it the study stops. ``trial_hours``: the longest one trial may
    take; ``silence_seconds``: the longest time between two of its validation checks.
    """

    on_oom: Literal["fail", "halve"] = "fail"
    most_failed_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    trial_hours: Annotated[float, Field(gt=0)] | None = None
    silence_seconds: Annotated[float, Field(gt=0)] = 3600.0


@final
class Halt:
    """Why a study is to stop, once there is a reason; it stays set.

    ``reason``: a sentence; ``by_budget``: whether that is how it was meant to end.
    """

    def __init__(self, ledger: Ledger, most_failed_share: float) -> None:
        self.ledger, self._share = ledger, most_failed_share
        self.reason, self.by_budget = "", False
        self._endings: Counter[bool] = Counter()

    def due(self) -> bool:
        """Whether to stop now."""
        if not self.reason and (exceeded := self.ledger.exceeded()):
            self.reason, self.by_budget = exceeded, True
        return bool(self.reason)

    def ended(self, outcome: dict[str, Any]) -> None:
        """A trial ended, with this outcome (see `sweeps.search.endings.outcome`)."""
        # A divergence is what the search wants to know of a point, and no fault.
        has_failed = outcome["state"] == "failed" and outcome["kind"] != "diverged"
        self._endings[has_failed] += 1
        if self.reason or not has_failed:
            return
        said = cause(outcome["failure"])
        if outcome["kind"] in STOPS_THE_STUDY:
            self.reason = f"trial {outcome['number']} failed as every other would: {said}"
            return
        failed, ended = self._endings[True], self._endings.total()
        if ended >= ENOUGH_TO_JUDGE and failed / ended > self._share:
            self.reason = (
                f"{failed} of {ended} trials failed, more than failures.most_failed_share="
                f"{self._share:g} allows; the last one: {said}"
            )
