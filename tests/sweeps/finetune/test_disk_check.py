"""A run is refused where its checkpoints, its model or a download do not fit a disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sweeps.finetune import disk_check
from sweeps.finetune.disk_check import DiskError, check_disk, check_hub_cache
from sweeps.finetune.loop import finetune
from sweeps.finetune.memory_check import adapter_parameters, checkpoint_bytes
from sweeps.finetune.model_facts import count_parameters
from sweeps.finetune.reporter import FolderReporter
from tests.sweeps.finetune.tiny import config

LORA = {"name": "lora", "lora": {"rank": 2}}


def leave(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """A disk with so many free bytes."""
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=free))


def test_a_checkpoint_holds_what_is_trained_and_its_moments(world: Path) -> None:
    run = config(world, checkpoint_updates=1)
    parameters = count_parameters(run.model)
    assert parameters is not None
    assert checkpoint_bytes(run) == 3 * 4 * parameters
    assert checkpoint_bytes(config(world, optimizer="adafactor")) == 4 * parameters
    lora = config(world, method=LORA)
    adapter = adapter_parameters(lora.model, lora.method)
    assert checkpoint_bytes(lora) == 3 * 4 * adapter > 0


def test_the_folder_holds_checkpoints_and_the_model(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(world, checkpoint_updates=1, keep_checkpoints=2, keep="model")
    model = 4 * (count_parameters(run.model) or 0)
    folder = tmp_path / "trial"
    (folder / "checkpoint" / "step-0000000001").mkdir(parents=True)
    # One is there, so one more is kept and one is written.
    leave(monkeypatch, 2 * 3 * model + model)
    check_disk(run, folder)
    with pytest.raises(DiskError, match=r"trial on \S+: 0.00 GiB free, the run needs up to"):
        check_disk(run, folder, uploading=1)
    leave(monkeypatch, 2 * 3 * model + model - 1)
    with pytest.raises(DiskError, match=r"for checkpoints, .* for the model"):
        check_disk(run, folder)


def test_a_run_is_refused_before_it_trains(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 0)
    with pytest.raises(DiskError, match=r"0\.00 GiB free"):
        finetune(config(world), tmp_path / "run", FolderReporter(tmp_path / "run"))


def test_a_model_of_the_hub_needs_room_in_its_cache(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(world)
    leave(monkeypatch, 0)
    check_hub_cache(run)  # a folder is not downloaded
    hub_run = run.model_copy(update={"model": run.model.model_copy(update={"path": "own/er"})})
    monkeypatch.setattr(disk_check, "count_parameters", lambda model: 7 * 2**30)
    monkeypatch.setattr(disk_check, "is_downloaded", lambda model: True)
    check_hub_cache(hub_run)
    monkeypatch.setattr(disk_check, "is_downloaded", lambda model: False)
    with pytest.raises(DiskError, match=r"own/er takes at least 14.00 GiB; HF_HOME names"):
        check_hub_cache(hub_run)
