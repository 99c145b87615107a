"""A worker looks for the driver's word in the storage before it does anything there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from sweeps.config.failure_kinds import kind_of
from sweeps.config.resources import Resources
from sweeps.execution import shared_storage, worker_session
from sweeps.execution.job_messages import Job, Measured, MeasuringJob
from sweeps.execution.shared_storage import SharedFolderJob, probe
from sweeps.finetune.reporter import Check
from sweeps.storage.address import is_relative
from sweeps.storage.errors import UserError
from tests.sweeps.finetune.processes import run_ranks

JOB = MeasuringJob("math/000-abc", {}, 0)


def go(check: Check) -> bool:
    return True


def writes(into: Path) -> Callable[..., Measured]:
    """What runs a job by a file in a folder."""

    def run(job: Job, report: Any, memory: dict[str, Any]) -> Measured:
        (into / "trial").mkdir(parents=True)
        return Measured({}, job.key)

    return run


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_storage, "LOOK_AGAIN_SECONDS", (0.01,))


def test_the_same_folder_runs_the_job(tmp_path: Path) -> None:
    with probe(tmp_path) as word:
        job = SharedFolderJob(str(tmp_path), word, writes(tmp_path))
        assert job(JOB, go, {}) == Measured({}, JOB.key)
    assert [path.name for path in tmp_path.iterdir()] == ["trial"]


@pytest.mark.parametrize("has_folder", [True, False])
def test_another_disk_is_refused_before_anything_is_written(
    tmp_path: Path, has_folder: bool
) -> None:
    here = tmp_path / "here"
    if has_folder:
        here.mkdir()
    with probe(tmp_path / "driver") as word:
        job = SharedFolderJob(str(here), word, writes(here))
        with pytest.raises(
            UserError, match=rf"storage {here}: node .* a different disk"
        ) as caught:
            job(JOB, go, {})
    assert kind_of(caught.value) == "configuration"  # which stops the study
    assert here.exists() == has_folder
    assert not has_folder or list(here.iterdir()) == []


def on_a_rank(folder: Path, word: str) -> None:
    """The last rank has another disk; each notes what it was told."""
    rank = dist.get_rank()
    shared_storage.LOOK_AGAIN_SECONDS = (0.01,)
    mine = folder / "driver" if rank == 0 else folder / "other"
    said = "nothing"
    try:
        SharedFolderJob(str(mine), word, writes(mine))(JOB, go, {})
    except UserError as error:
        said = str(error)
    (folder / f"{rank}.txt").write_text(said)


def test_every_rank_refuses_where_one_has_another_disk(tmp_path: Path) -> None:
    with probe(tmp_path / "driver") as word:
        run_ranks(on_a_rank, 2, tmp_path, tmp_path, word)
    for rank in range(2):
        assert "a different disk" in (tmp_path / f"{rank}.txt").read_text()
    assert not (tmp_path / "driver" / "trial").exists()


@pytest.mark.parametrize(
    ("storage", "relative"),
    [("runs", True), ("./runs", True), ("/runs", False), ("~/runs", False), ("s3://b/r", False)],
)
def test_which_storage_is_relative(storage: str, relative: bool) -> None:
    assert is_relative(storage) == relative


def test_a_relative_storage_is_refused_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(worker_session, "ray_session", lambda resources: nullcontext(1))
    monkeypatch.setattr(worker_session, "has_other_nodes", lambda: True)
    with (
        pytest.raises(UserError, match=f"storage {tmp_path}: expected an absolute path"),
        worker_session.worker_session(Resources(), tmp_path, None, True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
