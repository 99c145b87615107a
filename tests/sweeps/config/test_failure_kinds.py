"""Failures have kinds, and the kinds decide what happens."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluators.errors import DataError
from sweeps.config.budget import (
    ENOUGH_TO_JUDGE,
    BudgetConfig,
    StopCondition,
    UsageFile,
    UsageTracker,
)
from sweeps.config.failure_kinds import (
    KINDS,
    FailureKind,
    blames_node,
    cause,
    is_of_device,
    kind_of,
)
from sweeps.finetune.model_facts import ModelError
from sweeps.storage.errors import UserError


def wrapped(error: Exception) -> Exception:
    """As a library hands it on."""
    try:
        raise RuntimeError("while training") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize("through", [lambda error: error, wrapped])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "oom"),
        (MemoryError(), "oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (ConnectionResetError("peer"), "infrastructure"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "infrastructure"),
        (RuntimeError("CUDA error: unspecified launch failure"), "infrastructure"),
        (RuntimeError("No CUDA GPUs are available"), "infrastructure"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "infrastructure"),
        (
            RuntimeError("NCCL error in: NCCLUtils.hpp:1, ncclRemoteError: A call"),
            "infrastructure",
        ),
        (RuntimeError("ncclUnhandledCudaError: Cuda failure 2 'out of memory'"), "oom"),
        (RuntimeError("CUDA error: device-side assert triggered"), "error"),
        (DataError("train.jsonl:3", "expected a row", "found none"), "configuration"),
        (ModelError("no such folder"), "configuration"),
        (ValueError("not ours"), "error"),
        (KeyError("a fault of the program"), "error"),
    ],
)
def test_an_exception_has_a_kind(
    error: Exception, kind: FailureKind, through: Callable[[Exception], Exception]
) -> None:
    assert kind_of(through(error)) == kind


def test_only_errors_of_its_own_hardware_blame_a_node() -> None:
    broken = wrapped(RuntimeError("CUDA error: uncorrectable ECC error encountered"))
    linked = wrapped(RuntimeError("NCCL error: ncclSystemError: System call failed"))
    storage = ConnectionResetError("peer")
    assert [is_of_device(each) for each in (broken, linked, storage)] == [True, True, False]
    assert [blames_node(each) for each in (broken, linked, storage)] == [True, False, False]


def test_an_exception_that_causes_itself_ends() -> None:
    error = RuntimeError("round")
    error.__context__ = error
    assert kind_of(error) == "error"


def test_the_cause_is_one_line() -> None:
    assert cause("\n  KeyError: 'x'\nTraceback\n") == "KeyError: 'x'"
    assert cause("") == ""


class Clock:
    """Time that passes when told, in hours."""

    def __init__(self) -> None:
        self.hours = 0.0

    def __call__(self) -> float:
        return self.hours * 3600


def ledger(clock: Clock, before: float = 0.0, **budget: float) -> UsageTracker:
    return UsageTracker(BudgetConfig.model_validate(budget), 4.0, before, clock=clock)


def test_gpu_hours_are_of_ended_running_and_earlier_trials() -> None:
    clock = Clock()
    spent = ledger(clock, before=1.0)
    spent.began("a")
    clock.hours = 0.5
    spent.ended("a")
    spent.began("b")
    clock.hours = 0.75
    assert spent.gpu_hours() == pytest.approx(1 + 4 * 0.5 + 4 * 0.25)
    spent.ended("unknown")
    assert spent.exceeded() == ""


def test_what_a_trial_spent_before_its_actor_was_lost_counts_too() -> None:
    clock = Clock()
    spent = ledger(clock)
    spent.began("a")
    clock.hours = 0.5
    spent.began("a")
    clock.hours = 0.75
    spent.ended("a")
    assert spent.gpu_hours() == pytest.approx(4 * 0.75)


def call_of(folder: Path, clock: Clock, gpus: float, *beside: Path) -> UsageTracker:
    """One call of `run`, or of a paper's study."""
    usage = UsageFile(folder, beside)
    return UsageTracker(BudgetConfig(gpu_hours=4.0), gpus, usage.before, usage.record, clock)


def test_what_any_call_spends_counts_once_and_outlives_it(tmp_path: Path) -> None:
    clock = Clock()
    first = call_of(tmp_path, clock, 1.0)
    assert not list(tmp_path.iterdir())
    first.began("a")
    clock.hours = 1.0
    first.ended("a")  # by itself, by the halt or by a failure
    second = call_of(tmp_path, clock, 2.0)
    second.began("b")
    clock.hours = 2.0
    second.sync()  # as at an interrupt, with "b" still running
    third = call_of(tmp_path, clock, 1.0)
    assert third.gpu_hours() == second.gpu_hours() == pytest.approx(1.0 + 2.0)
    third.began("a")  # once more, as after `retry`
    clock.hours = 3.1
    assert "gpu_hours" in third.exceeded()
    assert [file.name for file in (tmp_path / "spent").iterdir()] == ["sweep.gpu_hours"]


def test_a_killed_call_loses_seconds_of_what_it_spent(tmp_path: Path) -> None:
    clock = Clock()
    killed = call_of(tmp_path, clock, 1.0)
    killed.began("a")
    clock.hours = 1.0
    assert not killed.exceeded()  # which is asked again and again
    clock.hours = 1.0 + 5 / 3600
    assert not killed.exceeded()
    assert call_of(tmp_path, clock, 1.0).gpu_hours() == pytest.approx(1.0)


def test_the_studies_of_a_paper_count_what_all_of_them_spent(tmp_path: Path) -> None:
    clock, folders = Clock(), [tmp_path / name for name in ("search", "drop")]
    for number, folder in enumerate(folders):
        one = call_of(folder, clock, 1.0, *folders)
        assert one.gpu_hours() == pytest.approx(number)
        one.began("a")
        clock.hours += 1.0
        one.ended("a")
    again = call_of(folders[0], clock, 1.0, *folders)
    again.began("b")
    clock.hours += 1.0
    again.ended("b")
    assert call_of(folders[1], clock, 1.0, *folders).gpu_hours() == pytest.approx(3.0)


def test_what_earlier_versions_wrote_for_each_call_still_counts(tmp_path: Path) -> None:
    (tmp_path / "spent").mkdir()
    for name, hours in (("first", "1.5"), ("second", "0.25"), ("torn", "")):
        (tmp_path / "spent" / f"{name}.gpu_hours").write_text(hours)
    for before in (1.75, 2.75):
        usage = UsageFile(tmp_path)
        assert usage.before == before
        usage.record(1.0)


def test_usage_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "spent" / "sweep.gpu_hours").mkdir(parents=True)
    with pytest.raises(UserError, match=r"sweep\.gpu_hours: the GPU-hours spent so far cannot"):
        UsageFile(tmp_path)


@pytest.mark.parametrize(
    ("budget", "hours", "name"),
    [
        ({"wall_hours": 2.0}, 2.0, "wall_hours"),
        ({"gpu_hours": 4.0}, 1.0, "gpu_hours"),
        ({"money": 10.0, "price_per_gpu_hour": 2.5}, 1.0, "money"),
    ],
)
def test_a_limit_that_is_reached_is_named_with_the_way_on(
    budget: dict[str, float], hours: float, name: str
) -> None:
    clock = Clock()
    spent = ledger(clock, **budget)
    spent.began("a")
    clock.hours = 0.99 * hours
    halt = StopCondition(spent, 0.5)
    assert not halt.due()
    clock.hours = 1.01 * hours
    assert halt.due()
    assert halt.by_budget
    assert f"{name} " in halt.reason
    assert f"budget.{name}=" in halt.reason


def test_money_needs_a_price() -> None:
    with pytest.raises(ValueError, match="money requires price_per_gpu_hour"):
        BudgetConfig(money=3.0)


def ended(kind: str = "") -> dict[str, Any]:
    state = "failed" if kind else "finished"
    return {"state": state, "kind": kind, "number": 7, "failure": "the cause\nmore" * bool(kind)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_trial_would_meet_stops_the_study_at_once(kind: FailureKind) -> None:
    halt = StopCondition(ledger(Clock()), 0.5)
    halt.ended(ended(kind))
    assert halt.due() == (kind in ("configuration", "disk"))
    if halt.due():
        assert halt.reason == "trial 7 failed, and every other would too: the cause"
        assert not halt.by_budget


def test_too_large_a_failed_share_stops_the_study() -> None:
    halt = StopCondition(ledger(Clock()), 0.5)
    for kind in ("", "error", "", "oom"):
        halt.ended(ended(kind))
    assert not halt.due()
    halt.ended(ended("error"))
    assert halt.due()
    assert "3 of 5 trials failed" in halt.reason


def test_few_failures_are_not_a_share() -> None:
    halt = StopCondition(ledger(Clock()), 0.5)
    for _ in range(ENOUGH_TO_JUDGE - 1):
        halt.ended(ended("error"))
    assert not halt.due()


def test_divergence_is_a_result_about_the_point_and_no_fault() -> None:
    halt = StopCondition(ledger(Clock()), 0.5)
    for _ in range(2 * ENOUGH_TO_JUDGE):
        halt.ended(ended("diverged"))
    assert not halt.due()
