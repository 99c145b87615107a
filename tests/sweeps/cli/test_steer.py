"""The commands `queue`, `fork` and `stop --trial`, and the same from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sweeps import open_results
from sweeps.cli import app
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.finetune import checkpoint
from sweeps.finetune.checkpoint import Checkpoint, saved
from sweeps.search.steering import pending
from sweeps.search.trial_records import Records
from sweeps.storage.errors import UserError
from sweeps.storage.mailbox import Mailbox
from tests.sweeps.another_driver import another_driver
from tests.sweeps.played import FINISHED, RUNNING, STOPPED, play, trial_folders

FOLDER = "runs/small"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, [*arguments])


def said(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def with_checkpoint(config: SweepConfig, number: int, step: int) -> Path:
    folder = trial_folders(config)[number]
    checkpoint.save(folder, "run", Checkpoint(step, None, {}, {}, {}, 0.0, 0.0))
    return saved(folder)[-1]


def test_a_point_for_an_ended_sweep_waits_for_resume(sweep_files: Path) -> None:
    config = play(FINISHED, FINISHED, FINISHED)
    text = said("queue", FOLDER, "mask_ratio=0.3", "learning_rate=0.005")
    assert text.startswith("sums: a point is queued. The sweep is not running")
    assert text.endswith(f"python -m sweeps resume {sweep_files / FOLDER}")
    (request,) = pending(Records(config), "sums")
    assert request.point == {"mask_ratio": 0.3, "learning_rate": 0.005}
    status = said("status", FOLDER)
    assert "sums: queued by hand and not started: 1" in status and "to continue" in status
    assert json.loads(call("status", FOLDER, "--json").stdout)["result"]["state"] == "stopped"


def test_a_point_for_a_running_sweep_starts_by_itself(sweep_files: Path) -> None:
    config = play(FINISHED, RUNNING)
    with another_driver(paths_for(config).folder):
        text = said("queue", "sweep.yaml", "accumulation_interval=2")
    assert text == "sums: a point is queued; the running sweep starts it when a slot is free"


def test_the_same_point_is_not_asked_for_twice(sweep_files: Path) -> None:
    play(FINISHED)
    values = ["mask_ratio=0.3", "learning_rate=0.005", "accumulation_interval=1"]
    said("queue", FOLDER, *values)
    assert "a point with these values waits already" in refused("queue", FOLDER, *values)
    assert "did you mean 'mask_ratio'" in refused("queue", FOLDER, "mask_rati=0.3")
    assert "expected key=value" in refused("queue", FOLDER, "mask_ratio")
    twice = refused("queue", FOLDER, "mask_ratio=0.3", "mask_ratio=0.4")
    assert "override mask_ratio: given 2 times; expected once" in twice


def test_a_fork_keeps_the_checkpoint_it_starts_from(sweep_files: Path) -> None:
    config = play(FINISHED, RUNNING)
    place = with_checkpoint(config, 1, 3)
    text = said("fork", FOLDER, "1", "learning_rate=0.02", "clip_norm=null")
    assert "a fork of trial 1, from its update 3, is queued" in text
    (request,) = pending(Records(config), "sums")
    assert request.lineage is not None and request.lineage.step == 3
    assert request.point["learning_rate"] == 0.02 and request.point["clip_norm"] == "null"
    (kept,) = paths_for(config).fork_starts("sums", request.lineage.key).iterdir()
    assert (kept / "state.pt").stat().st_ino == (place / "state.pt").stat().st_ino
    checkpoint.discard(place.parents[1])  # as its trial does at the end
    said("fork", FOLDER, "1", "learning_rate=0.03")
    assert [one.point["learning_rate"] for one in pending(Records(config), "sums")] == [0.02, 0.03]


def test_a_trial_without_a_checkpoint_names_those_that_have_one(sweep_files: Path) -> None:
    config = play(FINISHED, RUNNING, STOPPED, RUNNING)
    assert "trials with a checkpoint: none" in refused("fork", FOLDER, "0")
    with_checkpoint(config, 1, 3)
    with_checkpoint(config, 3, 2)
    text = refused("fork", FOLDER, "0", "learning_rate=0.02")
    assert "trial 0 has no checkpoint" in text and "trials with a checkpoint: 1, 3" in text
    assert "has no trial 9; its trials: 0, 1, 2, 3" in refused("fork", FOLDER, "9")


def test_one_trial_of_a_running_sweep_is_stopped(sweep_files: Path) -> None:
    config = play(FINISHED, RUNNING)
    with another_driver(paths_for(config).folder) as driver:
        for _ in range(2):
            text = said("stop", FOLDER, "--trial", "1")
            assert text.startswith("sums: trial 1 ends at its next validation check")
        assert list(Mailbox(paths_for(config)).waiting()) == ["stop-sums-1.json"]
        assert "trial 0 is not running (finished)" in refused("stop", FOLDER, "--trial", "0")
        assert driver.poll() is None
    assert "small is not running" in refused("stop", FOLDER, "--trial", "1")
    assert "--domain requires --trial" in refused("stop", FOLDER, "--domain", "sums")


def test_a_domain_is_named_where_there_are_several(
    sweep_files: Path, tree: dict[str, Any]
) -> None:
    play(FINISHED)
    file = sweep_files / FOLDER / "sweep.yaml"
    resolved = json.loads(json.dumps(tree)) | {"storage": str(sweep_files / "runs")}
    resolved["domains"]["more"] = resolved["domains"]["sums"]
    file.write_text(json.dumps(resolved))
    assert "expected one of sums, more" in refused("queue", FOLDER, "mask_ratio=0.3")
    assert "did you mean 'sums'" in refused("queue", FOLDER, "mask_ratio=0.3", "--domain", "sum")
    assert "sums: a point" in said("queue", FOLDER, "mask_ratio=0.3", "--domain", "sums")


def test_the_same_from_python(sweep_files: Path) -> None:
    config = play(FINISHED, RUNNING)
    with_checkpoint(config, 1, 3)
    results = open_results(FOLDER)
    assert "a point is queued" in results.queue("sums", {"mask_ratio": 0.3})
    assert "a fork of trial 1" in results.fork("sums", 1, {"learning_rate": 0.02})
    with pytest.raises(UserError, match="small is not running"):
        results.stop("sums", 1)
    with pytest.raises(UserError, match=r"no domain 'sun' .*did you mean 'sums'"):
        results.queue("sun", {})
    with another_driver(paths_for(config).folder):
        assert "trial 1 ends" in results.stop("sums", 1)


def test_the_leaderboard_says_who_added_a_trial(sweep_files: Path) -> None:
    from tests.sweeps.search.test_requests import ASKED, Search

    search = Search(play(FINISHED))
    search.queue(**ASKED)
    search.fork(0, learning_rate=0.02)
    search.missing()
    search.run(2)
    board = json.loads(call("leaderboard", FOLDER, "--json").stdout)["result"]["sums"]
    origins = {row["number"]: (row["queued"], row["parent"]) for row in board}
    assert origins == {0: (False, None), 1: (True, None), 2: (False, 0)}
    assert "fork of 0 at" in call("leaderboard", FOLDER).stdout.replace("\n", " ")
