"""What a sweep may cost, and what it has cost so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Protocol, Self, final

from pydantic import Field, model_validator

from sweeps.finetune.strict_model import StrictModel

BALANCE_SECONDS = 10.0
"""What a killed driver can have spent beside its book."""

Amount = Annotated[float, Field(gt=0)]


class BudgetConfig(StrictModel):
    """At any of these limits the running trials are stopped and the report is written.

    ``wall_hours``: of this call of `run`. ``gpu_hours`` and ``money``: of the whole sweep, all
    domains, calls and drivers, and every try of a trial, also one that failed or was interrupted.
    `paper` has one budget for all its studies. Test items are not in it, and are scored wherever
    all trials are done, whatever is left. A stopped trial goes on from its checkpoint when the
    sweep is run again with a larger budget.
    """

    wall_hours: Amount | None = None
    gpu_hours: Amount | None = None
    money: Amount | None = None
    price_per_gpu_hour: Amount | None = None

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        if self.money is not None and self.price_per_gpu_hour is None:
            raise ValueError("money needs price_per_gpu_hour, in the same currency")
        return self

    def needs_gpus(self) -> bool:
        """Whether it limits something that a trial without a GPU never spends."""
        return self.gpu_hours is not None or self.money is not None


class Book(Protocol):
    """Where the drivers of a sweep keep what each has spent."""

    def record(self, gpu_hours: float) -> None:
        """Keep what this driver has spent so far."""

    def elsewhere(self) -> float:
        """GPU-hours of all the others, living or gone."""


@final
class Ledger:
    """Counts what the trials of a sweep spend; a trial holds ``gpus`` GPUs while it runs.

    Time counts whatever becomes of it: of a try that failed or was interrupted as of any other.
    """

    def __init__(
        self,
        budget: BudgetConfig,
        gpus: float,
        book: Book,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        """``began``: since when wall time counts, on ``clock``; from now on by default."""
        self._budget, self._gpus, self._book, self._clock = budget, gpus, book, clock
        self._started = clock() if began is None else began
        self._ended = 0.0
        self._running: dict[str, float] = {}
        self.balance()

    def began(self, trial_id: str) -> None:
        """A trial starts, or is started again by Tune, whose actor for it was lost."""
        self._running.setdefault(trial_id, self._clock())

    def ended(self, trial_id: str) -> None:
        """A trial ended, or was stopped."""
        began = self._running.pop(trial_id, None)
        if began is not None:
            self._ended += self._hours_since(began) * self._gpus
            self.balance()

    def balance(self) -> None:
        """Write down what this driver has spent, and read what the others have."""
        self._balanced = self._clock()
        self._book.record(self._own())
        self._elsewhere = self._book.elsewhere()

    def gpu_hours(self) -> float:
        """Of ended and running trials, also of earlier calls and other drivers."""
        if self._clock() - self._balanced >= BALANCE_SECONDS:
            self.balance()
        return self._own() + self._elsewhere

    def _own(self) -> float:
        running = sum(self._hours_since(began) for began in self._running.values())
        return self._ended + running * self._gpus

    def exceeded(self) -> str:
        """The limit that is reached, as a sentence with the way on; empty below all limits."""
        budget, gpu_hours = self._budget, self.gpu_hours()
        spent = {"wall_hours": self._hours_since(self._started), "gpu_hours": gpu_hours}
        if budget.price_per_gpu_hour is not None:
            spent["money"] = gpu_hours * budget.price_per_gpu_hour
        for name, amount in spent.items():
            limit = getattr(budget, name)
            if limit is not None and amount >= limit:
                return (
                    f"the budget is spent: {name} {amount:.3g} of {limit:g}. To go on, give a "
                    f"larger one, as budget.{name}={2 * limit:g}"
                )
        return ""

    def _hours_since(self, moment: float) -> float:
        return (self._clock() - moment) / 3600
