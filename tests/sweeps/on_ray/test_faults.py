"""Whatever is killed: no trial is lost or run twice, no MLflow run doubled or stuck."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fault_history import History, findings
from fault_schedules import KINDS, Kind, Schedule, draw, single
from faults import Bench, events, undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as started:
        yield started


@pytest.fixture(scope="module")
def reference(bench: Bench) -> History:
    """The history of a sweep that nobody disturbs."""
    return undisturbed(bench)


def found(bench: Bench, schedule: Schedule, name: str, reference: History) -> list[str]:
    outcome = bench.run(schedule, name, lambda history: findings(history, reference))
    return [f"{each.rule}: {each.said}" for each in outcome.findings]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_loses_and_doubles_nothing(
    kind: Kind, seed: int, bench: Bench, reference: History
) -> None:
    schedule = single(kind, seed, events(reference))
    assert found(bench, schedule, f"{kind}-{seed}", reference) == []


@pytest.mark.parametrize("seed", range(5))
def test_several_faults_lose_and_double_nothing(
    seed: int, bench: Bench, reference: History
) -> None:
    assert found(bench, draw(seed, events(reference)), f"several-{seed}", reference) == []


def test_a_broken_build_is_found(reference: History) -> None:
    with Bench(broken=True) as bench:
        said = found(bench, Schedule(0, 1, ()), "broken", reference)
    assert any("finished 2 times" in each for each in said)
