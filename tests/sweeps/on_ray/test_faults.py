"""Whatever is killed: no trial is lost or run twice, no MLflow run doubled or stuck."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults import FAULTS, reference_scores, run_fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The scores of a sweep that nobody disturbs."""
    return reference_scores(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_loses_and_doubles_nothing(
    fault: str, seed: int, tmp_path: Path, reference: dict[str, float]
) -> None:
    verdict = run_fault(fault, FAULTS[fault], seed, tmp_path / "sweep", reference)
    assert verdict.sound(), verdict
