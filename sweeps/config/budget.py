"""Limits on cost and failures, and the usage counted against them.

When a study stops before its trials are done: by its budget, or failures others would share.

What a sweep has spent, in a file of its folder.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self, final

from pydantic import Field, model_validator

from sweeps.config.failure_kinds import STOPS_THE_STUDY, cause
from sweeps.finetune.strict_model import StrictModel
from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.errors import UserError

BALANCE_SECONDS = 10.0
"""The most usage that is lost if a driver is killed."""

Amount = Annotated[float, Field(gt=0)]


class BudgetConfig(StrictModel):
    """At any of these limits the running trials are stopped and the report is written.

    A sweep that is run again with a larger budget continues them from their checkpoints. Test
    items are not counted. All studies of a `paper` share one budget.
    """

    wall_hours: Amount | None = None
    """Hours of one call of `run`."""
    gpu_hours: Amount | None = None
    """GPU-hours of the sweep: all domains, calls and attempts of a trial."""
    money: Amount | None = None
    """Cost of the sweep, in the currency of `price_per_gpu_hour`."""
    price_per_gpu_hour: Amount | None = None
    """The price of one GPU for an hour; required by `money`."""

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        if self.money is not None and self.price_per_gpu_hour is None:
            raise ValueError("money requires price_per_gpu_hour, in the same currency")
        return self


@final
class UsageTracker:
    """Counts the GPU-hours of a sweep's trials; a running trial holds ``gpus`` GPUs.

    Failed and interrupted attempts count like any others.
    """

    def __init__(
        self,
        budget: BudgetConfig,
        gpus: float,
        before: float = 0.0,
        record: Callable[[float], None] = lambda gpu_hours: None,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        """``before``, ``record``: as of a `UsageFile`. ``began``: since when wall time counts, on
        ``clock``; from now on by default."""
        self._budget, self._gpus, self._before = budget, gpus, before
        self._record, self._clock = record, clock
        self._started = clock() if began is None else began
        self._ended = 0.0
        self._running: dict[str, float] = {}
        self._recorded = clock()

    def began(self, trial_id: str) -> None:
        """A trial starts, or Tune restarts it because its actor was lost."""
        self._running.setdefault(trial_id, self._clock())

    def ended(self, trial_id: str) -> None:
        """A trial ended, or was stopped."""
        began = self._running.pop(trial_id, None)
        if began is not None:
            self._ended += self._hours_since(began) * self._gpus
            self.sync()

    def sync(self) -> None:
        """Write down what this call has spent."""
        self._recorded = self._clock()
        self._record(self._own())

    def gpu_hours(self) -> float:
        """Of ended and running trials, also of earlier calls."""
        if self._clock() - self._recorded >= BALANCE_SECONDS:
            self.sync()
        return self._own() + self._before

    def _own(self) -> float:
        running = sum(self._hours_since(began) for began in self._running.values())
        return self._ended + running * self._gpus

    def exceeded(self) -> str:
        """The limit that is reached and how to continue, as a sentence; empty below all limits."""
        budget, gpu_hours = self._budget, self.gpu_hours()
        spent = {"wall_hours": self._hours_since(self._started), "gpu_hours": gpu_hours}
        if budget.price_per_gpu_hour is not None:
            spent["money"] = gpu_hours * budget.price_per_gpu_hour
        for name, amount in spent.items():
            limit = getattr(budget, name)
            if limit is not None and amount >= limit:
                return (
                    f"the budget is spent: {name} {amount:.3g} of {limit:g}. To continue, raise "
                    f"it, for example budget.{name}={2 * limit:g}"
                )
        return ""

    def _hours_since(self, moment: float) -> float:
        return (self._clock() - moment) / 3600


ENOUGH_TO_JUDGE = 4
"""The failed share is checked once this many trials have ended."""


class FailuresConfig(StrictModel):
    """How the sweep reacts to failing trials."""

    on_oom: Literal["fail", "halve"] = "fail"
    """`halve` retries a trial that ran out of memory with half the micro-batch and the same
    effective batch."""
    most_failed_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The study stops when more than this share of its trials have failed."""
    trial_hours: Annotated[float, Field(gt=0)] | None = None
    """The most hours that a trial may run, without its wait for a worker group; null: no limit."""
    silence_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """The most seconds between two validation checks of a trial."""


@final
class StopCondition:
    """Decides when a study must stop; once set, the reason stays.

    ``reason``: a sentence. ``by_budget``: the budget is spent, which is not a failure.
    """

    def __init__(self, usage: UsageTracker, most_failed_share: float) -> None:
        self.usage, self._share = usage, most_failed_share
        self.reason, self.by_budget = "", False
        self._endings: Counter[bool] = Counter()

    def due(self) -> bool:
        """Whether the study must stop now."""
        if not self.reason and (exceeded := self.usage.exceeded()):
            self.reason, self.by_budget = exceeded, True
        return bool(self.reason)

    def ended(self, outcome: dict[str, Any]) -> None:
        """Count a trial that ended with this outcome (see `sweeps.search.outcomes.outcome`)."""
        # Divergence is a result about the point, which the search needs, and not a failure.
        has_failed = outcome["state"] == "failed" and outcome["kind"] != "diverged"
        self._endings[has_failed] += 1
        if self.reason or not has_failed:
            return
        said = cause(outcome["failure"])
        if outcome["kind"] in STOPS_THE_STUDY:
            self.reason = f"trial {outcome['number']} failed, and every other would too: {said}"
            return
        failed, ended = self._endings[True], self._endings.total()
        if ended >= ENOUGH_TO_JUDGE and failed / ended > self._share:
            self.reason = (
                f"{failed} of {ended} trials failed, more than failures.most_failed_share="
                f"{self._share:g} allows; the last one: {said}"
            )


@final
class UsageFile:
    """In the sweep's folder; what is spent stays spent. ``before``: GPU-hours of earlier calls
    and of the sweeps ``beside``, which share the budget."""

    def __init__(self, folder: Path, beside: Iterable[Path] = ()) -> None:
        """``beside``: folders of sweeps.

        Raises:
            UserError: a file that is there cannot be read.
        """
        self._file = folder / "spent" / "sweep.gpu_hours"
        homes = {folder, *beside}
        # Earlier versions wrote a file for each call.
        files = [file for home in homes for file in (home / "spent").glob("*.gpu_hours")]
        self.before = sum(map(_hours, files))
        self._own_before = _hours(self._file)

    def record(self, gpu_hours: float) -> None:
        """Add what this call has spent so far; a disk that is full this moment is not said."""
        if gpu_hours:
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(self._file, repr(self._own_before + gpu_hours))


def _hours(file: Path) -> float:
    try:
        return float(file.read_text())
    except (FileNotFoundError, ValueError):
        return 0.0
    except OSError as error:
        said = f"the GPU-hours spent so far cannot be read ({error.strerror or error})"
        raise UserError(f"{file}: {said}") from None
