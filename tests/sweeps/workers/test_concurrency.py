"""How many trials run at once on what a cluster offers, now or later."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.config import Resources
from sweeps.errors import UserError
from sweeps.workers.cluster import concurrency

PAIR = Resources(workers=2, cpus_per_worker=1, gpus_per_worker=0.5, concurrency=4)


@pytest.fixture(autouse=True)
def fixed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"), [(100, 100, 4), (6, 100, 3), (100, 2, 2), (2, 1, 1)]
)
def test_a_cluster_of_fixed_size_takes_what_fits(cpus: int, gpus: int, expected: int) -> None:
    assert concurrency(PAIR, {"CPU": cpus, "GPU": gpus}, joined=True) == expected


def test_a_cluster_of_fixed_size_where_nothing_fits_is_refused() -> None:
    with pytest.raises(UserError, match="one trial needs 2 CPUs and 1 GPUs"):
        concurrency(PAIR, {"CPU": 64.0}, joined=True)


def test_a_cluster_that_grows_may_be_empty_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    assert concurrency(PAIR, {}, joined=True) == 4
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE")
    (tmp_path / "ray_bootstrap_config.yaml").touch()
    assert concurrency(PAIR, {}, joined=True) == 4
